//! Names, ports and settings of the processes of one world.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::port::{self, Claim, Reserved};

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
    /// Further variables, by the name of the process.
    variables: BTreeMap<(String, String), String>,
    /// Kept until the processes are about to bind them.
    reserved: Vec<Reserved>,
    /// Kept over all restarts.
    claims: Vec<Claim>,
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
            variables: BTreeMap::new(),
            reserved,
            claims: Vec::new(),
        }
    }

    /// Says where the stores are.
    pub(super) fn connect(&mut self, redis: &str, amqp: &str, orders: &str, notify: &str) {
        let stores = [
            ("GATEWAY__REDIS__URL", redis),
            ("STOCK_SERVICE__REDIS__URL", redis),
            ("STOCK_SERVICE__AMQP__URL", amqp),
            ("ORDER_SERVICE__DATABASE__URL", orders),
            ("ORDER_SERVICE__AMQP__URL", amqp),
            ("NOTIFY_SERVICE__DATABASE__URL", notify),
            ("NOTIFY_SERVICE__AMQP__URL", amqp),
        ];
        self.stores = stores.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    }

    /// A setting that wins over all that were given before.
    pub(super) fn set(&mut self, key: &str, value: &str) {
        self.overrides.push((key.to_owned(), value.to_owned()));
    }

    /// A variable of one process.
    pub(super) fn set_variable(&mut self, name: &str, key: &str, value: Option<&str>) {
        let place = (self.place(name).name.clone(), key.to_owned());
        match value {
            Some(value) => self.variables.insert(place, value.to_owned()),
            None => self.variables.remove(&place),
        };
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
        self.claims.extend(self.reserved.drain(..).map(|reserved| reserved.claim));
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
        let variables = self.variables.iter().filter(|((process, _), _)| process == name);
        let variables = variables.map(|((_, key), value)| (key.clone(), value.clone()));
        general.chain(own).chain(given).chain(variables).collect()
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
