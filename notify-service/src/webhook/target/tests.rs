//! The corpus of addresses.

use super::*;

const REFUSED: [&str; 167] = [
    "https://127.0.0.1/hook",
    "https://127.1/hook",
    "https://127.255.255.254/",
    "https://0.0.0.0/",
    "https://0/",
    "https://10.1.2.3/",
    "https://100.64.0.1/",
    "https://169.254.169.254/latest/meta-data",
    "https://172.16.0.1/",
    "https://172.31.255.255/",
    "https://192.168.1.1/",
    "https://192.0.0.1/",
    "https://192.0.2.1/",
    "https://198.18.0.1/",
    "https://198.51.100.7/",
    "https://203.0.113.7/",
    "https://224.0.0.1/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    "https://2130706433/",
    "https://017700000001/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0177.0.0.01/",
    "https://①②⑦.⓪.⓪.①/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:10.0.0.1]/",
    "https://[::ffff:a9fe:a9fe]/",
    "https://[::127.0.0.1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[64:ff9b:1::1]/",
    "https://[100::1]/",
    "https://[2001::1]/",
    "https://[2001:db8::1]/",
    "https://[2002:7f00:1::]/",
    "https://[3fff::1]/",
    "https://[fc00::1]/",
    "https://[fd12:3456::1]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    "https://localhost/",
    "https://localhost./",
    "https://LOCALHOST/",
    "https://api.localhost/",
    "https://printer.local/",
    "https://metadata.google.internal/",
    "https://router/",
    "https://user@example.com/",
    "https://user:password@example.com/",
    "https://example.com\\@127.0.0.1/",
    "https://example.com/#fragment",
    "https://example.com:22/",
    "https://example.com:6379/",
    "http://example.com/",
    "ftp://example.com/",
    "gopher://example.com/",
    "file:///etc/passwd",
    "https://exa mple.com/",
    // Numbers that other parsers read as addresses.
    "https://0x7f.0.0.1/",
    "https://0x7F.0x0.0x0.0x1/",
    "https://0177.0.0.1/",
    "https://0177.1/",
    "https://127.0.1/",
    "https://127.0.0.1./",
    "https://127.000.000.001/",
    "https://00000177.0.0.1/",
    "https://3232235777/",
    "https://0xc0a80101/",
    "https://030052000401/",
    "https://2852039166/",
    "https://0xa9fea9fe/",
    "https://0251.0376.0251.0376/",
    "https://169.254.43518/",
    "https://10.1/",
    "https://0xa.1/",
    "https://012.0.0.1/",
    "https://%31%32%37.0.0.1/",
    "https://127%2e0%2e0%2e1/",
    "https://127。0。0。1/",
    "https://127．0．0．1/",
    "https://１２７.0.0.1/",
    "https://𝟏𝟐𝟕.𝟎.𝟎.𝟏/",
    "https://169。254。169。254/",
    // IPv4 inside of IPv6, and the rest of IPv6.
    "https://[::ffff:7f00:1]/",
    "https://[0:0:0:0:0:ffff:127.0.0.1]/",
    "https://[::ffff:0:127.0.0.1]/",
    "https://[0000:0000:0000:0000:0000:0000:0000:0001]/",
    "https://[::ffff:192.168.0.1]/",
    "https://[::ffff:169.254.169.254]/",
    "https://[::10.0.0.1]/",
    "https://[64:ff9b::169.254.169.254]/",
    "https://[64:ff9b::10.0.0.1]/",
    "https://[2002:a9fe:a9fe::]/",
    "https://[2002:c0a8:101::1]/",
    "https://[2001:0:7f00:1::]/",
    "https://[fd00:ec2::254]/",
    "https://[fe80::a9fe:a9fe]/",
    "https://[ff05::1]/",
    "https://[2001:20::1]/",
    "https://[5f00::1]/",
    "https://[::1%25lo]/",
    "https://[::1%lo]/",
    // Names of this machine or network.
    "https://localhost:443/",
    "https://lOcAlHoSt/",
    "https://foo.localhost/",
    "https://localhost.localdomain.local/",
    "https://ｌｏｃａｌｈｏｓｔ/",
    "https://metadata/",
    "https://metadata.internal/",
    "https://kubernetes.default.svc.cluster.local/",
    "https://redis/",
    "https://postgres.internal/",
    "https://nas.lan/",
    "https://wiki.intranet/",
    "https://fritz.home.arpa/",
    "https://host.docker.internal/",
    "https://printer.local./",
    // Users, fragments, and what parsers disagree about.
    "https://example.com@127.0.0.1/",
    "https://127.0.0.1@example.com/",
    "https://:password@example.com/",
    "https://example.com:443@127.0.0.1/",
    "https://example.com%40127.0.0.1@10.0.0.1/",
    "https://127.0.0.1#@example.com/",
    "https://127.0.0.1?@example.com/",
    "https://127.0.0.1/@example.com",
    "https://127.0.0.1\\@example.com/",
    "https:\\\\127.0.0.1/",
    "https:127.0.0.1/",
    "https:///127.0.0.1/",
    "https:/127.0.0.1/",
    "https://example.com\t/",
    "https://example.com\r\nHost: 127.0.0.1/",
    "https://\u{0}127.0.0.1/",
    " https://example.com/",
    "https://example.com/\u{a0}",
    "https://exam\u{2028}ple.com/",
    "https://[127.0.0.1]/",
    "https://[::1/",
    "https://::1/",
    // Ports and schemes.
    "https://example.com:0/",
    "https://example.com:5672/",
    "https://example.com:5432/",
    "https://example.com:80/",
    "https://example.com:65536/",
    "https://example.com:-1/",
    "https://example.com:443x/",
    "HTTP://example.com/",
    "//example.com/",
    "ws://example.com/",
    "wss://example.com/",
    "dict://127.0.0.1:6379/",
    "ldap://127.0.0.1/",
    "jar:https://example.com!/",
    "data:text/plain,x",
    "javascript:alert(1)",
    "unix:///var/run/docker.sock",
    "https+unix://%2fvar%2frun/",
    "",
    "https",
    "https://",
    "https://.",
    "https://..",
    "https://.local/",
];

#[test]
fn targets_that_only_we_can_reach_are_refused() {
    let rules = Rules::new(false, vec![443, 8443]);
    let accepted: Vec<_> = REFUSED.iter().filter(|url| rules.check(url).is_ok()).collect();
    assert!(accepted.is_empty(), "{accepted:?}");
}

#[test]
fn public_targets_are_accepted() {
    let rules = Rules::new(false, vec![443, 8443]);
    for url in [
        "https://example.com/hook?tenant=7",
        "https://hooks.example.com:8443/",
        "https://1.1.1.1/",
        "https://[2606:4700:4700::1111]/",
        "https://münchen.example/",
        "https://local.example.com/",
        "https://notlocalhost.com/",
    ] {
        assert!(rules.check(url).is_ok(), "{url}: {:?}", rules.check(url));
    }
}

#[test]
fn one_private_address_spoils_all_of_a_name() {
    let rules = Rules::new(false, vec![443]);
    let public: IpAddr = "1.1.1.1".parse().unwrap();
    let private: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
    assert_eq!(rules.check_addresses(&[public]), Ok(()));
    assert_eq!(rules.check_addresses(&[public, private]), Err(Refused::NotPublic));
}

#[test]
fn development_may_call_itself_but_only_over_http() {
    let rules = Rules::new(true, vec![443]);
    assert!(rules.check("http://127.0.0.1:9999/hook").is_ok());
    assert_eq!(rules.check("ftp://127.0.0.1/"), Err(Refused::NotHttp));
    assert_eq!(rules.check("http://user@127.0.0.1/"), Err(Refused::Credentials));
}

#[test]
fn every_refusal_says_why() {
    let rules = Rules::new(false, vec![443]);
    for (url, why) in [
        ("hook", Refused::NotAUrl),
        ("https://", Refused::NotAUrl),
        ("http://example.com", Refused::NotHttps),
        ("https://example.com:8080", Refused::Port),
        ("https://example.com:0", Refused::Port),
        ("https://10.0.0.1", Refused::NotPublic),
    ] {
        assert_eq!(rules.check(url).unwrap_err(), why, "{url}");
    }
    let long = format!("https://example.com/{}", "a".repeat(2_000));
    assert_eq!(rules.check(&long).unwrap_err(), Refused::TooLong);
}
