//! The gateway as clients see it, before stand-ins for the services behind it.

mod access;
mod admission;
mod audit_log;
mod bad_input;
mod cache;
mod catalogue;
mod challenge;
mod client_ip;
mod compatibility;
mod connections;
mod desync;
mod document;
mod events;
mod jwks;
mod limits;
mod limits_shared;
mod line;
mod orders;
mod place_order;
mod protection;
mod store;
mod support;
mod tokens;
mod versions;
mod wechat;
