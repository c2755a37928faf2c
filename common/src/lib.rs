//! What is on the wire between the services, and the start-up plumbing that all of them use unchanged.
//!
//! A thing may enter only if it is one of the two. Not here: business rules, state machines, diesel or Redis types,
//! handlers of one resource, any service's settings or error type, and anything called `utils`.
//!
//! The wire: [`ids`], [`messages`], [`api`], [`problem`], [`topology`].
//!
//! The plumbing: [`settings`], [`telemetry`], [`shutdown`], [`health`], [`serve`], [`internal`], [`http_client`],
//! [`amqp`], [`batcher`], [`failpoint`], [`command`].

pub mod amqp;
pub mod api;
pub mod attentive;
pub mod batcher;
pub mod command;
pub mod failpoint;
pub mod health;
pub mod http_client;
pub mod ids;
pub mod internal;
pub mod messages;
pub mod problem;
pub mod serve;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod topology;
