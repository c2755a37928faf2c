//! Tests of the stock service on real servers; run them by `./dev test -p stock-service`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod announcing;
mod behind;
mod catalogue;
mod harm;
mod measure;
mod recovering;
mod reserving;
mod script_apply;
mod script_books;
mod script_load;
mod script_model;
mod script_places;
mod script_reserve;
mod stale_grants;
mod starting;
mod support;
mod withdrawing;
mod wrong_books;
