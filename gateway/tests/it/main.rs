//! The gateway as clients see it, before stand-ins for the services behind it.

mod access;
mod admission;
mod audit_log;
mod bad_input;
mod catalogue;
mod document;
mod events;
mod limits;
mod line;
mod orders;
mod place_order;
mod store;
mod support;
mod tokens;
mod wechat;
