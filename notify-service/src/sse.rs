//! Server-sent events: every user hears what becomes of their own orders.
//!
//! The truth is in the database; a stream is a position in it. The [`hub`] knows who is connected and where they
//! are, the [`reader`] reads for all of them together. Wake-ups only say when to read: from the consumer of this
//! replica after its commit, from the broker when it is another replica's, and from a slow sweep should both fail.

pub mod heads;
pub mod hub;
pub mod reader;
pub mod stream;

use bytes::Bytes;

/// Keeps a silent stream alive; clients ignore it.
pub const PING: Bytes = Bytes::from_static(b": ping\n\n");

/// The first thing on a stream: where it begins, so that also a client that has heard nothing yet resumes without
/// a gap, and when to come back. Without `data:` it is no event to a client.
pub fn hello(position: i64, retry_ms: u64) -> Bytes {
    Bytes::from(format!("retry: {retry_ms}\nid: {position}\n\n"))
}

/// One event; `data` is JSON on one line.
pub fn event(seq: i64, data: &str) -> Bytes {
    Bytes::from(format!("event: order\nid: {seq}\ndata: {data}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_with_an_empty_line() {
        assert_eq!(event(7, "{}"), "event: order\nid: 7\ndata: {}\n\n");
        assert_eq!(hello(0, 1500), "retry: 1500\nid: 0\n\n");
    }
}
