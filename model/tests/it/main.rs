//! The model against the protocol: what holds, what each guard is for, and that the scripts are what it says they are.

mod protocol;
mod scripts;
