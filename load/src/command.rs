//! What the program can do; one file each.

pub mod bench;
pub mod overload;
pub mod run;
pub mod slowloris;
