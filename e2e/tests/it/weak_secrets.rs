//! No service starts outside the dev profile with a secret that somebody could guess, or a store that is open to
//! everybody; it says which setting it is, and never the value.

use std::path::PathBuf;
use std::process::Command;

const STRONG: [&str; 3] = [
    "kq8Zr2vX0pLw7TnYd4Hs9BfGc1MjUe6A",
    "Wb3uQz8LxE5rNf0KtVy7PmCd2JhSa9Gi",
    "q7Zp4Xw9Lk2Vt6Rn8Bc3Hs5Jd1Fg0MyA",
];
const WEAK: [&str; 5] = [
    "short-secret-3f",
    "changeme-changeme-changeme-changeme",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "this-is-the-Example-secret-of-the-docs-7",
    "0101010101010101010101010101010101010101",
];
const OPEN_STORES: [&str; 4] = [
    "//10.9.8.7/x",
    "//guest:guest@10.9.8.7/x",
    "//owner-of-it-all:owner-of-it-all@10.9.8.7/x",
    "//owner:hunter2@10.9.8.7/x",
];

fn program(service: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(|deps| deps.parent()).unwrap().join(service)
}

/// What a service needs to get past its settings.
fn settings(service: &str) -> Vec<(String, String)> {
    let store = |scheme: &str| format!("{scheme}://user:{}@127.0.0.1:9/x", STRONG[2]);
    let mut all = vec![("INTERNAL__TOKEN", STRONG[0].to_owned()), ("HTTP__PORT", "0".to_owned())];
    all.extend(match service {
        "gateway" => vec![("AUTH__JWT_SECRET", STRONG[1].to_owned()), ("OPS__PORT", "0".to_owned())],
        "stock-service" => vec![("REDIS__URL", store("redis")), ("AMQP__URL", store("amqp"))],
        _ => vec![("DATABASE__URL", store("postgres")), ("AMQP__URL", store("amqp"))],
    });
    let prefix = service.to_uppercase().replace('-', "_");
    all.into_iter().map(|(key, value)| (format!("{prefix}__{key}"), value)).collect()
}

fn refuses(service: &str, key: &str, value: &str) {
    let prefix = service.to_uppercase().replace('-', "_");
    let variable = format!("{prefix}__{}", key.to_uppercase().replace('.', "__"));
    let mut command = Command::new(program(service));
    command.envs(settings(service)).env("NO_COLOR", "1").env(&variable, value);
    if key.starts_with("payments") {
        command.env("ORDER_SERVICE__PAYMENTS__SANDBOX_ENABLED", "true");
    }
    let ended = command.output().unwrap();
    let told = [ended.stdout, ended.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(!ended.status.success(), "{service} runs with {key} = {value}: {told}");
    assert!(told.contains(key), "{service} does not name {key}: {told}");
    assert!(!told.contains("listening"), "{service} has bound its port: {told}");
    let quoted = ["hunter2", "10.9.8.7"].iter().any(|part| value.contains(part) && told.contains(part));
    assert!(
        !quoted && (value.is_empty() || !told.contains(value)),
        "{service} shows the value of {key}: {told}"
    );
}

#[test]
fn a_guessable_secret_stops_each_service_before_it_binds_a_port() {
    let secrets = [
        ("gateway", "internal.token"),
        ("gateway", "auth.jwt_secret"),
        ("gateway", "line.secret"),
        ("gateway", "line.secret_previous"),
        ("stock-service", "internal.token"),
        ("order-service", "internal.token"),
        ("order-service", "payments.sandbox_secret"),
        ("notify-service", "internal.token"),
    ];
    for (service, key) in secrets {
        WEAK.iter().for_each(|weak| refuses(service, key, weak));
    }
    for (service, key) in secrets.iter().filter(|(_, key)| !key.starts_with("line")) {
        refuses(service, key, "");
    }
}

#[test]
fn a_store_that_is_open_to_everybody_stops_each_service_too() {
    let stores = [
        ("gateway", "redis.url", "redis"),
        ("stock-service", "redis.url", "redis"),
        ("stock-service", "amqp.url", "amqp"),
        ("order-service", "database.url", "postgres"),
        ("order-service", "database.migration_url", "postgres"),
        ("order-service", "amqp.url", "amqp"),
        ("notify-service", "database.url", "postgres"),
        ("notify-service", "database.migration_url", "postgres"),
        ("notify-service", "amqp.url", "amqp"),
    ];
    for (service, key, scheme) in stores {
        OPEN_STORES.iter().for_each(|open| refuses(service, key, &format!("{scheme}:{open}")));
    }
}
