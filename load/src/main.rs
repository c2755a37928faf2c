//! The load tool; see the library.

fn main() {}
