//! Wrong settings stop the process and name the key, never a secret.

use std::collections::HashMap;

use common::amqp::AmqpSettings;
use common::settings::{HttpSettings, Profile, UrlList, check_secret, check_store, load_from};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

const DEFAULT: &str = r#"
    profile = "production"
    orders = "http://127.0.0.1:8082"
    token = ""
    [http]
    host = "127.0.0.1"
    port = 8081
    workers = 0
"#;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    profile: Profile,
    orders: UrlList,
    token: SecretString,
    http: HttpSettings,
}

fn load(environment: &[(&str, &str)]) -> Result<Settings, String> {
    let environment: HashMap<_, _> =
        environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    load_from("STOCK_SERVICE", DEFAULT, environment).map_err(|error| error.to_string())
}

#[test]
fn the_environment_overrides_the_defaults() {
    let settings = load(&[
        ("STOCK_SERVICE__HTTP__PORT", "9000"),
        ("STOCK_SERVICE__PROFILE", "dev"),
        ("STOCK_SERVICE__ORDERS", "http://a:1, https://b/base/"),
    ])
    .unwrap();
    assert_eq!((settings.http.port, settings.profile), (9000, Profile::Dev));
    assert_eq!(settings.http.host.to_string(), "127.0.0.1");
    let urls: Vec<_> = settings.orders.as_slice().iter().map(ToString::to_string).collect();
    assert_eq!(urls, ["http://a:1/", "https://b/base/"]);
}

#[test]
fn a_file_lies_between_the_defaults_and_the_environment() {
    let file = std::env::temp_dir().join(format!("stampede-settings-{}.toml", std::process::id()));
    std::fs::write(&file, "token = \"from the file\"\n[http]\nport = 1\nworkers = 3\n").unwrap();
    let settings =
        load(&[("STOCK_SERVICE__FILE", file.to_str().unwrap()), ("STOCK_SERVICE__HTTP__PORT", "2")]).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!((settings.http.port, settings.http.workers), (2, 3));
    assert_eq!(settings.token.expose_secret(), "from the file");
}

#[test]
fn a_missing_file_is_an_error() {
    assert!(load(&[("STOCK_SERVICE__FILE", "/does/not/exist.toml")]).is_err());
}

#[test]
fn a_secret_of_digits_stays_what_it_is() {
    for secret in ["00123", "1e5", "true", "12345678901234567890123456789012345678901234567890"] {
        let settings = load(&[("STOCK_SERVICE__TOKEN", secret)]).unwrap();
        assert_eq!(settings.token.expose_secret(), secret);
    }
}

#[test]
fn errors_name_the_key() {
    for (key, value, named) in [
        ("STOCK_SERVICE__HTTP__PORT", "http", "http.port"),
        ("STOCK_SERVICE__HTTP__PORT", "70000", "http.port"),
        ("STOCK_SERVICE__HTTP__HOST", "nowhere", "http.host"),
        ("STOCK_SERVICE__HTTP__PROT", "1", "prot"),
        ("STOCK_SERVICE__HTPP__PORT", "1", "htpp"),
        ("STOCK_SERVICE__PROFILE", "staging", "profile"),
        ("STOCK_SERVICE__ORDERS", "a,b", "orders"),
        ("STOCK_SERVICE__ORDERS", "ftp://a", "orders"),
        ("STOCK_SERVICE__ORDERS", "", "orders"),
    ] {
        let error = load(&[(key, value)]).expect_err(key);
        assert!(error.contains(named), "{key}={value}: {error}");
    }
}

#[test]
fn what_kubernetes_injects_is_not_ours() {
    assert_eq!(load(&[("STOCK_SERVICE_PORT", "tcp://10.0.0.1:80")]).unwrap().http.port, 8081);
}

#[test]
fn weak_secrets_are_for_development_only() {
    let good = "u9X2kQ7vB4mZ1pL8sD5fG3hJ6tR0yWcE";
    let check = |secret: &str, profile| check_secret("internal.token", &SecretString::from(secret), profile);
    assert!(check(good, Profile::Production).is_ok());
    assert!(check("dev", Profile::Dev).is_ok());
    assert!(check("", Profile::Dev).is_err());
    for weak in ["", &good[..31], &"a".repeat(64), &format!("changeme-{good}"), &format!("PASSWORD{good}")] {
        let error = check(weak, Profile::Production).expect_err(weak).to_string();
        assert!(error.contains("internal.token"), "{error}");
        assert!(weak.is_empty() || !error.contains(weak), "{error}");
    }
}

#[test]
fn a_bad_url_is_not_repeated() {
    let error = load(&[("STOCK_SERVICE__ORDERS", "http://user:hunter2@:x")]).unwrap_err();
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn a_broker_that_can_never_be_reached_is_refused_without_telling_the_password() {
    let good = AmqpSettings {
        addresses: common::amqp::NodeList::default(),
        url: SecretString::from("amqp://user:hunter2@127.0.0.1:5672/%2f"),
        heartbeat_s: 10,
        connect_timeout_ms: 5_000,
        publish_timeout_ms: 2_000,
        publish_window: 64,
    };
    assert!(good.validate().is_ok());
    for (bad, key) in [
        (AmqpSettings { url: SecretString::from("http://user:hunter2@a"), ..good.clone() }, "amqp.url"),
        (AmqpSettings { url: SecretString::from("amqp://user:hunter2@a:x/"), ..good.clone() }, "amqp.url"),
        (AmqpSettings { heartbeat_s: 0, ..good.clone() }, "amqp.heartbeat_s"),
        (AmqpSettings { publish_timeout_ms: 0, ..good.clone() }, "amqp.publish_timeout_ms"),
        (AmqpSettings { publish_window: 0, ..good.clone() }, "amqp.publish_window"),
        (AmqpSettings { publish_window: 5_000, ..good }, "amqp.publish_window"),
    ] {
        let error = bad.validate().expect_err(key).to_string();
        assert!(error.contains(key) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_store_that_is_open_to_everybody_is_refused_outside_the_dev_profile() {
    let refused = [
        "redis://10.0.0.1:6379/",
        "redis://:@10.0.0.1:6379/",
        "redis://gateway@10.0.0.1:6379/",
        "amqp://guest:guest@10.0.0.1:5672/%2f",
        "amqp://guest:GUEST@10.0.0.1:5672/%2f",
        "postgres://postgres:postgres@10.0.0.1/orders",
        "postgres://a-long-user-name:a-long-user-name@10.0.0.1/orders",
        "postgres://orders:Password-12345@10.0.0.1/orders",
        "postgres://orders:short@10.0.0.1/orders",
        "host=10.0.0.1 user=orders",
    ];
    for url in refused {
        let secret = SecretString::from(url);
        let error = check_store("store.url", &secret, Profile::Production).unwrap_err().to_string();
        assert!(error.contains("store.url") && !error.contains("10.0.0.1"), "{url}: {error}");
        check_store("store.url", &secret, Profile::Dev).unwrap();
    }
    let good = SecretString::from("postgres://orders:kq8Zr2vX0pLw7TnYd4Hs@10.0.0.1/orders");
    check_store("store.url", &good, Profile::Production).unwrap();
}
