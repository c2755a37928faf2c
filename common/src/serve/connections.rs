//! How many connections there may be, in all and from one address.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::problem::{Code, Problem};

/// Most connections where a service says nothing else: more than its callers' pools can hold.
const CONNECTIONS_MAX: usize = 20_000;

/// Which addresses are not limited one by one: proxies of ours, through which everybody comes.
pub type Exempt = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// The limits of connections.
#[derive(Clone)]
pub struct ConnectionLimits {
    /// Most connections of the process.
    pub total: usize,
    /// Most connections from one address, IPv6 counted by /64; 0: no limit.
    pub per_address: usize,
    /// To whom `per_address` does not apply.
    pub exempt: Exempt,
    /// Whether a client that closes its side is still waited upon. If not, it has gone, and so has its request: strangers
    /// hang up all the time. A service's handler is not ended by a caller who hangs up.
    pub half_closed: bool,
}

impl Default for ConnectionLimits {
    /// For a port that only our own services reach.
    fn default() -> Self {
        Self { total: CONNECTIONS_MAX, per_address: 0, exempt: Arc::new(|_| true), half_closed: true }
    }
}

/// The connections there are. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    limits: ConnectionLimits,
    open: AtomicUsize,
    by_address: Mutex<HashMap<u128, usize>>,
}

/// The right to one connection, until dropped.
pub(super) struct Permit {
    shared: Arc<Shared>,
    counted: Option<u128>,
}

/// Why there cannot be one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// Too many in all.
    Total,
    /// Too many from this address.
    Address,
}

impl Full {
    /// The whole answer, on a connection that then ends.
    pub(super) fn answer(self) -> String {
        let problem = match self {
            Self::Total => Problem::new(Code::TooBusy),
            Self::Address => Problem::new(Code::RateLimited),
        };
        super::answers::written(&problem)
    }
}

impl fmt::Display for Full {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Total => "total",
            Self::Address => "address",
        })
    }
}

impl Connections {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Self(Arc::new(Shared { limits, open: AtomicUsize::new(0), by_address: Mutex::default() }))
    }

    /// One more from `peer`, if there is room.
    pub(super) fn enter(&self, peer: IpAddr) -> Result<Permit, Full> {
        let shared = &self.0;
        let peer = peer.to_canonical();
        let counted =
            (shared.limits.per_address > 0 && !(shared.limits.exempt)(peer)).then(|| subscriber(peer));
        if shared.open.fetch_add(1, Ordering::Relaxed) >= shared.limits.total {
            shared.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::Total);
        }
        let mut permit = Permit { shared: shared.clone(), counted: None };
        if let Some(key) = counted {
            let mut by_address = shared.addresses();
            let open = by_address.entry(key).or_insert(0);
            if *open >= shared.limits.per_address {
                return Err(Full::Address);
            }
            *open += 1;
            permit.counted = counted;
        }
        Ok(permit)
    }
}

impl Shared {
    fn addresses(&self) -> MutexGuard<'_, HashMap<u128, usize>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        let Some(key) = self.counted else { return };
        let mut by_address = self.shared.addresses();
        if let Some(open) = by_address.get_mut(&key) {
            *open -= 1;
            if *open == 0 {
                by_address.remove(&key);
            }
        }
    }
}

/// What is counted together: an IPv4 address, or the /64 of an IPv6 address, which one subscriber has whole.
fn subscriber(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address) & (u128::MAX << 64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(total: usize, per_address: usize) -> Connections {
        let exempt: Exempt = Arc::new(|peer| peer.is_loopback());
        Connections::new(ConnectionLimits { total, per_address, exempt, half_closed: true })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn there_are_so_many_in_all_and_no_more() {
        let connections = connections(2, 0);
        let first = connections.enter(address("192.0.2.1")).ok().expect("room");
        let _second = connections.enter(address("192.0.2.2")).ok().expect("room");
        for _ in 0..5 {
            assert_eq!(connections.enter(address("192.0.2.3")).err(), Some(Full::Total));
        }
        drop(first);
        assert!(connections.enter(address("192.0.2.3")).is_ok(), "its place is free again");
    }

    #[test]
    fn one_address_has_so_many_and_a_network_counts_as_one() {
        let connections = connections(100, 2);
        let held =
            ["2001:db8::1", "2001:db8::2"].map(|text| connections.enter(address(text)).ok().expect("room"));
        assert_eq!(connections.enter(address("2001:db8::3")).err(), Some(Full::Address));
        assert!(connections.enter(address("2001:db8:0:1::1")).is_ok(), "another network");
        let _mapped = connections.enter(address("::ffff:192.0.2.1")).ok().expect("room");
        let _plain = connections.enter(address("192.0.2.1")).ok().expect("room");
        assert_eq!(connections.enter(address("192.0.2.1")).err(), Some(Full::Address));
        let _ours: Vec<_> =
            (0..50).map(|_| connections.enter(address("127.0.0.1")).ok().expect("room")).collect();
        drop(held);
        assert!(connections.enter(address("2001:db8::3")).is_ok());
        assert_eq!(connections.0.addresses().len(), 1, "who has none is forgotten");
    }

    #[test]
    fn the_answer_is_a_problem_that_says_when_to_come_back() {
        for full in [Full::Total, Full::Address] {
            let answer = full.answer();
            assert!(answer.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{answer}");
            assert!(
                answer.contains("\r\nretry-after: 1\r\n") && answer.contains("\r\nconnection: close\r\n")
            );
        }
    }
}
