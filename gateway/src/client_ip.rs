//! Which address a request comes from: the peer, unless it is a proxy of ours.

use std::net::IpAddr;

use actix_web::http::header::HeaderMap;

use crate::settings::CidrList;

/// The header in which proxies write whom they speak for.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// Most hops that are looked at.
const HOPS_MAX: usize = 32;

/// The client's address: `peer`, or, if that is a trusted proxy, the rightmost hop that is not one, over all lines
/// of X-Forwarded-For. What a client writes itself stands further left and is never reached.
pub fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &CidrList) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusted.contains(client) {
        return client;
    }
    let lines: Vec<&str> = headers.get_all(FORWARDED_FOR).map(|line| line.to_str().unwrap_or("?")).collect();
    let hops = lines.iter().rev().flat_map(|line| line.rsplit(','));
    for hop in hops.take(HOPS_MAX) {
        // What a trusted proxy wrote can be read; if it cannot, the last hop known is the best that is known.
        let Some(address) = parse(hop.trim()) else { break };
        client = address;
        if !trusted.contains(client) {
            break;
        }
    }
    client
}

/// An address, with or without a port.
fn parse(hop: &str) -> Option<IpAddr> {
    let address = hop.parse::<IpAddr>().ok();
    let address = address.or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip()));
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    address.or_else(bracketed).map(|address| address.to_canonical())
}

/// What a limit counts: an IPv4 address, or the /64 of an IPv6 address, which one subscriber has whole.
pub fn limit_key(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address) & (u128::MAX << 64),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    /// Trusted: 10.0.0.0/8 and fd00::/8.
    fn client(peer: &str, lines: &[&str]) -> String {
        let trusted = CidrList::try_from("10.0.0.0/8, fd00::/8".to_owned()).unwrap();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(
                HeaderName::from_static(FORWARDED_FOR),
                HeaderValue::from_bytes(line.as_bytes()).unwrap(),
            );
        }
        client_ip(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_proxies_of_ours_are_believed_and_only_what_they_wrote() {
        let table: &[(&str, &[&str], &str)] = &[
            // A stranger's headers count for nothing.
            ("203.0.113.9", &[], "203.0.113.9"),
            ("203.0.113.9", &["1.1.1.1"], "203.0.113.9"),
            ("203.0.113.9", &["10.0.0.1"], "203.0.113.9"),
            ("203.0.113.9", &["127.0.0.1", "1.1.1.1"], "203.0.113.9"),
            ("::ffff:203.0.113.9", &["1.1.1.1"], "203.0.113.9"),
            ("2001:db8::1", &["1.1.1.1"], "2001:db8::1"),
            // A proxy is believed about its own peer, not about what that peer said.
            ("10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1,198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["127.0.0.1, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7", "1.1.1.1"], "1.1.1.1"),
            // Through several proxies of ours.
            ("10.0.0.1", &["198.51.100.7, 10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1", &["9.9.9.9, 198.51.100.7, 10.0.0.3, 10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7", "10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7, ::ffff:10.0.0.2"], "198.51.100.7"),
            ("fd00::1", &["2001:db8::2, fd00::2"], "2001:db8::2"),
            // Nothing but proxies: the outermost.
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.2"], "10.0.0.2"),
            // Ports, brackets, white space.
            ("10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7"),
            ("10.0.0.1", &["[2001:db8::2]:4711"], "2001:db8::2"),
            ("10.0.0.1", &["[2001:db8::2]"], "2001:db8::2"),
            ("10.0.0.1", &["   198.51.100.7  "], "198.51.100.7"),
            ("10.0.0.1", &["::ffff:198.51.100.7"], "198.51.100.7"),
            // What cannot be read ends the search where it was.
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["198.51.100.7,"], "10.0.0.1"),
            ("10.0.0.1", &["0x7f000001"], "10.0.0.1"),
            ("10.0.0.1", &["010.1.1.1"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7 198.51.100.8"], "10.0.0.1"),
            ("10.0.0.1", &["_hidden"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7%eth0"], "10.0.0.1"),
        ];
        for (peer, lines, expected) in table {
            assert_eq!(client(peer, lines), *expected, "peer {peer}, lines {lines:?}");
        }
    }

    #[test]
    fn a_subscriber_cannot_rotate_through_its_ipv6_network() {
        let key = |address: &str| limit_key(address.parse().unwrap());
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
