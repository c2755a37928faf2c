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
    use super::*;

    #[test]
    fn a_subscriber_cannot_rotate_through_its_ipv6_network() {
        let key = |address: &str| limit_key(address.parse().unwrap());
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
