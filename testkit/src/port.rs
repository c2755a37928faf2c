//! Choosing loopback ports.

use std::net::TcpListener;

/// Below Linux' usual range for outgoing connections (32768 and up): a port from that range could be taken by any
/// client while a server restarts, and a client that reconnects to it could even end up connected to itself.
const RANGE: std::ops::Range<u16> = 20_000..32_000;
const ATTEMPTS: usize = 1_000;

/// A port that nobody listens on at this moment. It may be taken before it is used: be ready to try another.
///
/// # Panics
/// If a thousand random ports are all in use.
pub(crate) fn free() -> u16 {
    let span = u128::from(RANGE.end - RANGE.start);
    for _ in 0..ATTEMPTS {
        let offset = u16::try_from(uuid::Uuid::new_v4().as_u128() % span).expect("smaller than the range");
        let port = RANGE.start + offset;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {} and {}", RANGE.start, RANGE.end);
}
