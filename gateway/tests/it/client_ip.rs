//! Whose address a request has: what a stranger writes into forwarding headers never counts.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use gateway::client_ip::client_ip;
use gateway::settings::CidrList;

/// The address that counts; trusted are 10.0.0.0/8 and fd00::/8. A line without a name is X-Forwarded-For.
fn client(peer: &str, lines: &[&str]) -> String {
    let trusted = CidrList::try_from("10.0.0.0/8, fd00::/8".to_owned()).expect("blocks");
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once('=').unwrap_or(("x-forwarded-for", line));
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
    }
    client_ip(peer.parse().expect("an address"), &headers, &trusted).to_string()
}

const STRANGER: &str = "203.0.113.9";
const PROXY: &str = "10.0.0.1";
const CLIENT: &str = "198.51.100.7";

/// Peer, header lines, the address that counts.
type Case = (&'static str, &'static [&'static str], &'static str);

/// A stranger's headers count for nothing, whatever their name, spelling and number.
const STRANGERS: &[Case] = &[
    (STRANGER, &[], STRANGER),
    (STRANGER, &["1.1.1.1"], STRANGER),
    (STRANGER, &[PROXY], STRANGER),
    (STRANGER, &["127.0.0.1"], STRANGER),
    (STRANGER, &["::1"], STRANGER),
    (STRANGER, &["127.0.0.1", "1.1.1.1"], STRANGER),
    (STRANGER, &["1.1.1.1, 10.0.0.2"], STRANGER),
    (STRANGER, &["fd00::1"], STRANGER),
    (STRANGER, &["forwarded=for=1.1.1.1"], STRANGER),
    (STRANGER, &["x-real-ip=1.1.1.1"], STRANGER),
    (STRANGER, &["client-ip=1.1.1.1"], STRANGER),
    (STRANGER, &["true-client-ip=1.1.1.1"], STRANGER),
    (STRANGER, &["cf-connecting-ip=1.1.1.1"], STRANGER),
    (STRANGER, &["x-client-ip=1.1.1.1", "x-cluster-client-ip=1.1.1.1"], STRANGER),
    (STRANGER, &["x-forwarded=1.1.1.1", "forwarded-for=1.1.1.1"], STRANGER),
    (STRANGER, &["X-FORWARDED-FOR=1.1.1.1"], STRANGER),
    ("::ffff:203.0.113.9", &["1.1.1.1"], STRANGER),
    ("2001:db8::1", &["1.1.1.1"], "2001:db8::1"),
    ("2001:db8::1", &["fd00::1"], "2001:db8::1"),
    ("fe80::1", &["1.1.1.1"], "fe80::1"),
    ("11.0.0.1", &["1.1.1.1"], "11.0.0.1"),
    ("9.255.255.255", &["1.1.1.1"], "9.255.255.255"),
];

/// A proxy is believed about its own peer, not about what that peer said.
const PROXIES: &[Case] = &[
    (PROXY, &[CLIENT], CLIENT),
    ("::ffff:10.0.0.1", &[CLIENT], CLIENT),
    ("10.255.255.255", &[CLIENT], CLIENT),
    (PROXY, &["1.1.1.1, 198.51.100.7"], CLIENT),
    (PROXY, &["1.1.1.1,198.51.100.7"], CLIENT),
    (PROXY, &["1.1.1.1 ,\t198.51.100.7"], CLIENT),
    (PROXY, &["127.0.0.1, 198.51.100.7"], CLIENT),
    (PROXY, &["::1, 198.51.100.7"], CLIENT),
    (PROXY, &["10.0.0.9, 198.51.100.7"], CLIENT),
    (PROXY, &["unknown, 198.51.100.7"], CLIENT),
    (PROXY, &["<script>, 198.51.100.7"], CLIENT),
    (PROXY, &["1.1.1.1", CLIENT], CLIENT),
    (PROXY, &[CLIENT, "1.1.1.1"], "1.1.1.1"),
    (PROXY, &["X-Forwarded-For=1.1.1.1", "x-forwarded-for=198.51.100.7"], CLIENT),
    (PROXY, &["forwarded=for=1.1.1.1", CLIENT], CLIENT),
    (PROXY, &[CLIENT, "x-real-ip=1.1.1.1"], CLIENT),
    (PROXY, &["x-real-ip=1.1.1.1"], PROXY),
    (PROXY, &["forwarded=for=1.1.1.1"], PROXY),
    // Through several proxies of ours, in one line or several.
    (PROXY, &["198.51.100.7, 10.0.0.2"], CLIENT),
    (PROXY, &["9.9.9.9, 198.51.100.7, 10.0.0.3, 10.0.0.2"], CLIENT),
    (PROXY, &[CLIENT, "10.0.0.2"], CLIENT),
    (PROXY, &["9.9.9.9", "198.51.100.7, 10.0.0.3", "10.0.0.2"], CLIENT),
    (PROXY, &["198.51.100.7, ::ffff:10.0.0.2"], CLIENT),
    (PROXY, &["198.51.100.7, fd00::2"], CLIENT),
    ("fd00::1", &["2001:db8::2, fd00::2"], "2001:db8::2"),
    ("fd00::1", &["1.1.1.1, 2001:db8::2"], "2001:db8::2"),
    // Nothing but proxies: the outermost.
    (PROXY, &[], PROXY),
    (PROXY, &["10.0.0.2"], "10.0.0.2"),
    (PROXY, &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
];

/// Spellings of one address, and what is none: that ends the search where it was.
const SPELLINGS: &[Case] = &[
    (PROXY, &["198.51.100.7:4711"], CLIENT),
    (PROXY, &["[2001:db8::2]:4711"], "2001:db8::2"),
    (PROXY, &["[2001:db8::2]"], "2001:db8::2"),
    (PROXY, &["2001:DB8:0:0::2"], "2001:db8::2"),
    (PROXY, &["   198.51.100.7  "], CLIENT),
    (PROXY, &["::ffff:198.51.100.7"], CLIENT),
    (PROXY, &["[::ffff:198.51.100.7]:80"], CLIENT),
    (PROXY, &[""], PROXY),
    (PROXY, &[","], PROXY),
    (PROXY, &["unknown"], PROXY),
    (PROXY, &["198.51.100.7, unknown"], PROXY),
    (PROXY, &["198.51.100.7, unknown, 10.0.0.2"], "10.0.0.2"),
    (PROXY, &["198.51.100.7,"], PROXY),
    (PROXY, &["198.51.100.7;10.0.0.2"], PROXY),
    (PROXY, &["198.51.100.7 198.51.100.8"], PROXY),
    (PROXY, &["0x7f000001"], PROXY),
    (PROXY, &["3325256711"], PROXY),
    (PROXY, &["010.1.1.1"], PROXY),
    (PROXY, &["198.51.100"], PROXY),
    (PROXY, &["198.51.100.256"], PROXY),
    (PROXY, &["198.51.100.7/32"], PROXY),
    (PROXY, &["198.51.100.7%eth0"], PROXY),
    (PROXY, &["198.51.100.7:99999"], PROXY),
    (PROXY, &["2001:db8::2:4711:1:1:1:1:1"], PROXY),
    (PROXY, &["\"198.51.100.7\""], PROXY),
    (PROXY, &["_hidden"], PROXY),
    (PROXY, &["localhost"], PROXY),
    (PROXY, &["198.51.100.7\u{e9}"], PROXY),
];

#[test]
fn only_proxies_of_ours_are_believed_and_only_what_they_wrote() {
    let cases = [STRANGERS, PROXIES, SPELLINGS].concat();
    assert!(cases.len() >= 60, "{}", cases.len());
    for (peer, lines, expected) in cases {
        assert_eq!(client(peer, lines), expected, "peer {peer}, lines {lines:?}");
    }
}

#[test]
fn a_line_without_an_end_is_not_read_to_its_end() {
    // Nothing but proxies of ours, thousands of them: bounded, and still one of ours.
    let long = vec!["10.0.0.2"; 4000].join(",");
    assert_eq!(client(PROXY, &[&format!("1.1.1.1,{long}")]), "10.0.0.2");
}
