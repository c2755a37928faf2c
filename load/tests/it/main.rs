//! The load tool against servers that behave badly.

mod open_loop;
mod support;
mod yardsticks;
