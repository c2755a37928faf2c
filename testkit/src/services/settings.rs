//! Names, ports and settings of the processes of one world.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::port::{self, Reserved};
use crate::{Database, Redis, Vhost};

/// In the order in which they are started.
pub(super) const SERVICES: [&str; 4] = ["stock-service", "order-service", "notify-service", "gateway"];

/// What is decided before the first process starts, and stays for all restarts.
#[derive(Debug)]
pub(super) struct Plan {
    world: String,
    pub(super) internal_token: String,
    pub(super) jwt_secret: String,
    pub(super) sandbox_secret: String,
    /// By the name of the process, in the order of start.
    places: Vec<Place>,
    /// The stores' settings, by the prefix of the service; then the test's own.
    stores: Vec<(String, String)>,
    overrides: Vec<(String, String)>,
    /// Kept until the processes are about to bind them.
    reserved: Vec<Reserved>,
}

/// A process and where it listens.
#[derive(Debug)]
struct Place {
    name: String,
    service: &'static str,
    port: u16,
    ops_port: u16,
}

impl Plan {
    pub(super) fn new(replicas: usize, overrides: &[(&str, &str)]) -> Self {
        let mut reserved = Vec::new();
        let mut take_port = || {
            let taken = port::reserve();
            let port = taken.port;
            reserved.push(taken);
            port
        };
        let mut places = Vec::new();
        for service in SERVICES {
            for replica in 1..=replicas {
                let name = if replica == 1 { service.to_owned() } else { format!("{service}-{replica}") };
                let port = take_port();
                // Only the gateway keeps operators apart from the public.
                let ops_port = if service == "gateway" { take_port() } else { port };
                places.push(Place { name, service, port, ops_port });
            }
        }
        Self {
            world: Uuid::new_v4().simple().to_string(),
            internal_token: secret(),
            jwt_secret: secret(),
            sandbox_secret: secret(),
            places,
            stores: Vec::new(),
            overrides: overrides
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            reserved,
        }
    }

    /// Says where the stores are, with the credentials that each service has in production.
    pub(super) fn connect(&mut self, redis: &Redis, vhost: &Vhost, orders: &Database, notify: &Database) {
        let stores = [
            ("GATEWAY__REDIS__URL", redis.url_of("gateway")),
            ("STOCK_SERVICE__REDIS__URL", redis.url_of("stock-service")),
            ("STOCK_SERVICE__AMQP__URL", vhost.url_of("stock-service")),
            ("ORDER_SERVICE__DATABASE__URL", orders.role_url()),
            ("ORDER_SERVICE__DATABASE__MIGRATION_URL", orders.url()),
            ("ORDER_SERVICE__AMQP__URL", vhost.url_of("order-service")),
            ("NOTIFY_SERVICE__DATABASE__URL", notify.role_url()),
            ("NOTIFY_SERVICE__DATABASE__MIGRATION_URL", notify.url()),
            ("NOTIFY_SERVICE__AMQP__URL", vhost.url_of("notify-service")),
        ];
        self.stores = stores.map(|(key, value)| (key.to_owned(), value)).to_vec();
    }

    /// A name for this world's folder.
    pub(super) fn world(&self) -> &str {
        &self.world
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.places.iter().map(|place| place.name.clone()).collect()
    }

    /// Lets go of the ports, for the processes to bind; returns whom to start.
    pub(super) fn release_ports(&mut self) -> Vec<String> {
        self.reserved.clear();
        self.names()
    }

    pub(super) fn service_of(&self, name: &str) -> &'static str {
        self.place(name).service
    }

    pub(super) fn url(&self, name: &str) -> String {
        url(self.place(name).port)
    }

    pub(super) fn ops_url(&self, name: &str) -> String {
        url(self.place(name).ops_port)
    }

    pub(super) fn urls_of(&self, service: &str) -> Vec<String> {
        self.places.iter().filter(|place| place.service == service).map(|place| url(place.port)).collect()
    }

    /// The environment of a process, the same as `./dev up` gives it.
    pub(super) fn variables(&self, name: &str) -> BTreeMap<String, String> {
        let place = self.place(name);
        let prefix = place.service.to_uppercase().replace('-', "_");
        let general = [
            ("PROFILE", "dev".to_owned()),
            ("HTTP__HOST", "127.0.0.1".to_owned()),
            ("HTTP__PORT", place.port.to_string()),
            ("INTERNAL__TOKEN", self.internal_token.clone()),
            ("TELEMETRY__LOG", "info".to_owned()),
            ("TELEMETRY__FORMAT", "text".to_owned()),
            ("DRAIN__READY_DELAY_MS", "0".to_owned()),
        ];
        let own = self.own_variables(place);
        let general = general.into_iter().map(|(key, value)| (format!("{prefix}__{key}"), value));
        let given = self.stores.iter().chain(&self.overrides).cloned();
        let given = given.filter(|(key, _)| key.starts_with(&format!("{prefix}__")));
        general.chain(own).chain(given).collect()
    }

    /// What only one service has.
    fn own_variables(&self, place: &Place) -> Vec<(String, String)> {
        let urls = |service: &str| self.urls_of(service).join(",");
        let public_url = self.urls_of("gateway").into_iter().next().unwrap_or_default();
        let own = match place.service {
            "gateway" => vec![
                ("GATEWAY__OPS__PORT", place.ops_port.to_string()),
                ("GATEWAY__STOCK__URLS", urls("stock-service")),
                ("GATEWAY__ORDERS__URLS", urls("order-service")),
                ("GATEWAY__NOTIFY__URLS", urls("notify-service")),
                ("GATEWAY__LIMITS__REPLICAS", self.urls_of("gateway").len().to_string()),
                ("GATEWAY__AUTH__JWT_SECRET", self.jwt_secret.clone()),
                ("GATEWAY__HTTP__PUBLIC_URL", public_url),
            ],
            "stock-service" => vec![("STOCK_SERVICE__ORDERS__URLS", urls("order-service"))],
            "order-service" => vec![
                ("ORDER_SERVICE__STOCK__URLS", urls("stock-service")),
                ("ORDER_SERVICE__PAYMENTS__SANDBOX_SECRET", self.sandbox_secret.clone()),
                ("ORDER_SERVICE__PAYMENTS__PUBLIC_URL", public_url),
            ],
            "notify-service" => vec![("NOTIFY_SERVICE__WEBHOOKS__ALLOW_PRIVATE", "true".to_owned())],
            other => panic!("{other} is not a service"),
        };
        own.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn place(&self, name: &str) -> &Place {
        let place = self.places.iter().find(|place| place.name == name);
        place.unwrap_or_else(|| panic!("there is no process {name}; there are {:?}", self.names()))
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// 64 random hexadecimal digits, except for the few bits that say "version 4".
fn secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}
