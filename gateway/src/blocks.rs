//! The block list, as this gateway has it: order-service keeps it, every gateway reads all of it (see [`crate::poll`])
//! and refuses by it without asking anybody. What was read last stays in force when order-service is away.
//!
//! A lookup allocates nothing and takes no lock; an empty list costs a load of a pointer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use arc_swap::ArcSwap;
use common::api::admin::BlockKind;
use common::api::blocks::BlockList;
use common::ids::UserId;
use ipnet::IpNet;
use tokio::time::Instant;

/// Bits of an IPv6 address that an IPv4 address has in front when it is written as one.
const V4_PREFIX: u8 = 96;

/// When it ends; `None`: when it is lifted.
type Until = Option<Instant>;

/// See the module.
#[derive(Default)]
pub struct Blocks(ArcSwap<Lists>);

#[derive(Default)]
struct Lists {
    users: HashMap<UserId, Until>,
    devices: HashMap<String, Until>,
    /// By the length of the prefix, counted in IPv6, what such prefixes are blocked; at most 129 lengths.
    networks: Vec<(u8, HashMap<u128, Until>)>,
}

impl Blocks {
    /// Replaces the list by one that was asked for at `asked_at`. Entries that make no sense here are left out: an older
    /// gateway does not know every kind of a newer list.
    pub fn store(&self, list: BlockList, asked_at: Instant) {
        let mut lists = Lists::default();
        for entry in list.items {
            let until = entry.expires_in_ms.map(|left_ms| asked_at + Duration::from_millis(left_ms));
            match entry.kind {
                BlockKind::User => {
                    if let Ok(user) = UserId::try_from(entry.value) {
                        lists.users.insert(user, until);
                    }
                }
                BlockKind::Device => _ = lists.devices.insert(entry.value, until),
                BlockKind::Network => {
                    if let Ok(network) = entry.value.parse() {
                        lists.add(network, until);
                    }
                }
            }
        }
        self.0.store(lists.into());
    }

    /// Whether this account is blocked.
    pub fn has_user(&self, user: &UserId) -> bool {
        in_force(self.0.load().users.get(user))
    }

    /// Whether this device is blocked.
    pub fn has_device(&self, device: &str) -> bool {
        in_force(self.0.load().devices.get(device))
    }

    /// Whether this address is in a blocked network.
    pub fn has_address(&self, address: IpAddr) -> bool {
        let lists = self.0.load();
        if lists.networks.is_empty() {
            return false;
        }
        let bits = bits(address);
        lists.networks.iter().any(|(length, networks)| in_force(networks.get(&(bits & mask(*length)))))
    }
}

impl Lists {
    fn add(&mut self, network: IpNet, until: Until) {
        let length = network.prefix_len() + if network.addr().is_ipv4() { V4_PREFIX } else { 0 };
        let prefix = bits(network.network()) & mask(length);
        match self.networks.iter_mut().find(|(known, _)| *known == length) {
            Some((_, networks)) => _ = networks.insert(prefix, until),
            None => self.networks.push((length, HashMap::from([(prefix, until)]))),
        }
    }
}

fn in_force(entry: Option<&Until>) -> bool {
    match entry {
        None => false,
        Some(None) => true,
        Some(Some(until)) => Instant::now() < *until,
    }
}

fn bits(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128_u32.saturating_sub(length.into())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use common::api::blocks::Blocked;

    use super::*;

    fn blocks(entries: &[(BlockKind, &str, Option<u64>)], asked_at: Instant) -> Blocks {
        let entry = |(kind, value, expires_in_ms): &(BlockKind, &str, Option<u64>)| Blocked {
            kind: *kind,
            value: (*value).to_owned(),
            expires_in_ms: *expires_in_ms,
        };
        let blocks = Blocks::default();
        blocks.store(BlockList { items: entries.iter().map(entry).collect() }, asked_at);
        blocks
    }

    #[test]
    fn networks_hold_their_addresses_and_no_others() {
        let blocks = blocks(
            &[
                (BlockKind::Network, "203.0.113.0/24", None),
                (BlockKind::Network, "198.51.100.7/32", None),
                (BlockKind::Network, "2001:db8:1::/48", None),
                (BlockKind::Network, "nonsense", None),
            ],
            Instant::now(),
        );
        let has = |address: &str| blocks.has_address(address.parse().expect("an address"));
        for inside in
            ["203.0.113.0", "203.0.113.255", "::ffff:203.0.113.9", "198.51.100.7", "2001:db8:1:ffff::1"]
        {
            assert!(has(inside), "{inside}");
        }
        for outside in ["203.0.112.255", "203.0.114.0", "198.51.100.8", "2001:db8:2::1", "::1", "cb00:7100::"]
        {
            assert!(!has(outside), "{outside}");
        }
        assert!(!Blocks::default().has_address("203.0.113.1".parse().expect("an address")));
    }

    #[test]
    fn an_entry_ends_by_itself_and_a_new_list_replaces_the_old_one() {
        let user = |name: &str| UserId::try_from(name.to_owned()).expect("valid");
        let asked_at = Instant::now().checked_sub(Duration::from_secs(10)).expect("the machine runs");
        let entries = [
            (BlockKind::User, "over", Some(9_000)),
            (BlockKind::User, "still", Some(60_000)),
            (BlockKind::Device, "device-1", None),
        ];
        let blocks = blocks(&entries, asked_at);
        assert!(!blocks.has_user(&user("over")) && blocks.has_user(&user("still")));
        assert!(blocks.has_device("device-1") && !blocks.has_device("device-2"));
        blocks.store(BlockList::default(), Instant::now());
        assert!(!blocks.has_user(&user("still")) && !blocks.has_device("device-1"));
    }
}
