//! Tests of the stock service on real servers; run them by `./dev test -p stock-service`.

mod announcing;
mod catalogue;
mod recovering;
mod reserving;
mod script_apply;
mod script_load;
mod script_model;
mod script_reserve;
mod support;
