//! A private RabbitMQ virtual host.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Method, Url};
use serde_json::{Value, json};

use crate::{cleanup, environment, init};

/// `./dev test` makes RabbitMQ refresh its queue totals four times in this time; the machine may be busy.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(1);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A virtual host of the test run's RabbitMQ with a user of its own; deleted with this value.
#[derive(Debug)]
pub struct Vhost {
    /// Encoded, as it stands in URLs.
    name: String,
    user: String,
    password: String,
    amqp: Url,
    api: Url,
    /// Whether it was made here, and so goes away with this value.
    owned: bool,
    /// Services that have a user of their own here.
    services: Vec<Permission>,
}

/// What one service may do.
#[derive(Debug)]
struct Permission {
    service: &'static str,
    configure: &'static str,
    write: &'static str,
    read: &'static str,
}

/// What services may do in production.
const PERMISSIONS: &str = include_str!("../../deploy/stores/rabbitmq-permissions");

fn permissions() -> Vec<Permission> {
    let lines = PERMISSIONS.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let columns = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    columns
        .map(|columns| match columns[..] {
            [service, configure, write, read] => Permission { service, configure, write, read },
            _ => panic!("not four columns: {columns:?}"),
        })
        .collect()
}

impl Vhost {
    /// Creates an empty virtual host and a user that may do everything in it.
    ///
    /// # Panics
    /// If RabbitMQ refuses, or outside `./dev test`.
    pub async fn create() -> Self {
        Self::create_for(Vec::new()).await
    }

    /// As [`Vhost::create`], with a user beside for each service that has the rights of production.
    ///
    /// # Panics
    /// If RabbitMQ refuses, or outside `./dev test`.
    pub async fn create_with_services() -> Self {
        Self::create_for(permissions()).await
    }

    async fn create_for(services: Vec<Permission>) -> Self {
        let name = format!("t-{}", uuid::Uuid::new_v4().simple());
        let (amqp, api) = (environment::rabbitmq_url(), environment::rabbitmq_api_url());
        // Not the user's name: outside the dev profile services refuse that.
        let (user, password) = (name.clone(), uuid::Uuid::new_v4().simple().to_string());
        let vhost = Self { name, user, password, amqp, api, owned: true, services };
        for user in vhost.users() {
            let body = json!({ "password": vhost.password, "tags": "" });
            vhost.call(Method::PUT, &format!("users/{user}"), Some(body)).await.expect("the user is created");
        }
        vhost.fill().await.expect("the virtual host is created");
        vhost
    }

    /// The default virtual host of a node, which the node itself makes again when it lost everything.
    ///
    /// `amqp` and `api` carry the name and the password of the node's administrator.
    pub(crate) fn default_of(amqp: Url, api: Url) -> Self {
        let (user, password) = (amqp.username().to_owned(), amqp.password().unwrap_or_default().to_owned());
        Self { name: "%2F".to_owned(), user, password, amqp, api, owned: false, services: Vec::new() }
    }

    /// `amqp://user:password@host:port/<name>`
    pub fn url(&self) -> String {
        let mut url = self.amqp.clone();
        url.set_username(&self.user).expect("an amqp URL has room for a user");
        url.set_password(Some(&self.password)).expect("an amqp URL has room for a password");
        url.set_path(&self.name);
        url.into()
    }

    /// As [`Vhost::url`], with the user of a service; see [`Vhost::create_with_services`].
    ///
    /// # Panics
    /// Never: an AMQP address has room for a user.
    pub fn url_of(&self, service: &str) -> String {
        let mut url = Url::parse(&self.url()).expect("an address");
        url.set_username(&self.user_of(service)).expect("an amqp URL has room for a user");
        url.into()
    }

    /// The user of everything, then the services'.
    fn users(&self) -> Vec<String> {
        let services = self.services.iter().map(|permission| self.user_of(permission.service));
        std::iter::once(self.user.clone()).chain(services).collect()
    }

    fn user_of(&self, service: &str) -> String {
        format!("{}-{service}", self.user)
    }

    fn next_user_of(&self, service: &str) -> String {
        format!("{}-next", self.user_of(service))
    }

    /// Adds a second user with the rights of a service's own, as when its password is changed; its address.
    ///
    /// # Panics
    /// If RabbitMQ refuses, or services have no users here.
    pub async fn add_next_user(&self, service: &str) -> String {
        let permission = self.services.iter().find(|permission| permission.service == service);
        let Permission { configure, write, read, .. } = permission.expect("services have users here");
        let (user, password) = (self.next_user_of(service), uuid::Uuid::new_v4().simple().to_string());
        let body = json!({ "password": password, "tags": "" });
        self.call(Method::PUT, &format!("users/{user}"), Some(body)).await.expect("the user is created");
        let rights = json!({ "configure": configure, "write": write, "read": read });
        let path = format!("permissions/{}/{user}", self.name);
        self.call(Method::PUT, &path, Some(rights)).await.expect("the user gets its rights");
        let mut url = Url::parse(&self.url()).expect("an address");
        url.set_username(&user).expect("an amqp URL has room for a user");
        url.set_password(Some(&password)).expect("an amqp URL has room for a password");
        url.into()
    }

    /// Deletes a service's first user, which ends its connections.
    ///
    /// # Panics
    /// If RabbitMQ refuses.
    pub async fn retire_user(&self, service: &str) {
        let path = format!("users/{}", self.user_of(service));
        self.delete(&path).await.expect("the user is deleted");
    }

    /// Messages in each queue, ready and unacknowledged together.
    ///
    /// RabbitMQ counts at intervals; this waits one interval, so the numbers are from after the call.
    ///
    /// # Panics
    /// If RabbitMQ does not answer.
    pub async fn queue_depths(&self) -> BTreeMap<String, u64> {
        tokio::time::sleep(STATISTICS_INTERVAL).await;
        let path = format!("queues/{}?disable_stats=true&enable_queue_totals=true", self.name);
        let queues = self.call(Method::GET, &path, None).await.expect("RabbitMQ lists queues");
        let queues = queues.as_array().expect("a list of queues").iter();
        queues.map(|queue| depth(queue).unwrap_or_else(|| panic!("not a queue: {queue}"))).collect()
    }

    /// Closes every connection to this virtual host from the broker's side.
    ///
    /// # Panics
    /// If RabbitMQ refuses.
    pub async fn close_all_connections(&self) {
        for user in self.users() {
            let path = format!("connections/username/{user}");
            self.call(Method::DELETE, &path, None).await.expect("RabbitMQ closes connections");
        }
    }

    /// Connections that have ended since the broker was started, on a node of the test's own.
    ///
    /// # Panics
    /// If RabbitMQ does not answer.
    pub async fn connections_closed(&self) -> u64 {
        tokio::time::sleep(STATISTICS_INTERVAL).await;
        let overview = self.call(Method::GET, "overview", None).await.expect("RabbitMQ gives an overview");
        overview["churn_rates"]["connection_closed"].as_u64().unwrap_or(0)
    }

    /// Makes the broker unreachable for this test: closes every connection and refuses new ones until
    /// [`Vhost::unblock`]. Messages stay.
    ///
    /// # Panics
    /// If RabbitMQ refuses.
    pub async fn block(&self) {
        self.call(Method::PUT, &self.limit(), Some(json!({ "value": 0 }))).await.expect("a limit can be set");
        self.close_all_connections().await;
    }

    /// Lets connections in again.
    ///
    /// # Panics
    /// If RabbitMQ refuses.
    pub async fn unblock(&self) {
        self.call(Method::DELETE, &self.limit(), None).await.expect("a limit can be removed");
    }

    /// Loses everything, exchanges and queues included, and closes every connection: a broker that came back empty.
    ///
    /// # Panics
    /// If RabbitMQ refuses.
    pub async fn wipe(&self) {
        self.call(Method::DELETE, &self.path(), None).await.expect("the virtual host can be deleted");
        self.close_all_connections().await;
        self.fill().await.expect("the virtual host is created again");
    }

    /// Deletes a queue with everything in it. Nothing happens if there is none of this name.
    ///
    /// # Panics
    /// If RabbitMQ refuses.
    pub async fn delete_queue(&self, queue: &str) {
        let path = format!("queues/{}/{queue}", self.name);
        self.delete(&path).await.expect("RabbitMQ deletes a queue");
    }

    /// Deletes an exchange with all its bindings: who publishes to it has the channel closed.
    ///
    /// # Panics
    /// If RabbitMQ refuses.
    pub async fn delete_exchange(&self, exchange: &str) {
        let path = format!("exchanges/{}/{exchange}", self.name);
        self.delete(&path).await.expect("RabbitMQ deletes an exchange");
    }

    /// Deletes the bindings between an exchange and a queue: what is published there goes nowhere.
    ///
    /// # Panics
    /// If RabbitMQ refuses.
    pub async fn delete_bindings(&self, exchange: &str, queue: &str) {
        let path = format!("bindings/{}/e/{exchange}/q/{queue}", self.name);
        let bindings = self.call(Method::GET, &path, None).await.expect("RabbitMQ lists bindings");
        for binding in bindings.as_array().expect("a list of bindings") {
            let key = binding["properties_key"].as_str().expect("a binding has a key");
            // The key is a path segment that has been encoded once already, and is to be decoded once.
            let key = key.replace('%', "%25").replace('#', "%23");
            self.delete(&format!("{path}/{key}")).await.expect("RabbitMQ deletes a binding");
        }
    }

    /// Lets every queue whose name matches `pattern` hold `messages_max` at most; one more is refused (nack).
    ///
    /// # Panics
    /// If RabbitMQ refuses.
    pub async fn limit_queues(&self, pattern: &str, messages_max: u64) {
        let definition = json!({ "max-length": messages_max, "overflow": "reject-publish" });
        let policy = json!({ "pattern": pattern, "definition": definition, "apply-to": "queues" });
        self.call(Method::PUT, &self.policy(), Some(policy)).await.expect("a policy can be set");
    }

    /// Takes [`Vhost::limit_queues`] back.
    ///
    /// # Panics
    /// If RabbitMQ refuses.
    pub async fn unlimit_queues(&self) {
        self.delete(&self.policy()).await.expect("a policy can be removed");
    }

    fn policy(&self) -> String {
        format!("policies/{}/limit", self.name)
    }

    /// A DELETE for which "not there" is as good.
    async fn delete(&self, path: &str) -> anyhow::Result<()> {
        match self.call(Method::DELETE, path, None).await {
            Ok(_) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Creates the virtual host itself, with permissions.
    async fn fill(&self) -> anyhow::Result<()> {
        self.call(Method::PUT, &self.path(), None).await?;
        let everything = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        let path = format!("permissions/{}/{}", self.name, self.user);
        self.call(Method::PUT, &path, Some(everything)).await?;
        for Permission { service, configure, write, read } in &self.services {
            let rights = json!({ "configure": configure, "write": write, "read": read });
            let path = format!("permissions/{}/{}", self.name, self.user_of(service));
            self.call(Method::PUT, &path, Some(rights)).await?;
        }
        Ok(())
    }

    fn path(&self) -> String {
        format!("vhosts/{}", self.name)
    }

    fn limit(&self) -> String {
        format!("vhost-limits/{}/max-connections", self.name)
    }

    /// Calls the management API; `Null` for an answer without a body.
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        init();
        let client = reqwest::Client::builder().no_proxy().timeout(REQUEST_TIMEOUT).build()?;
        let mut url = self.api.join(&format!("api/{path}"))?;
        let (user, password) = (url.username().to_owned(), url.password().unwrap_or_default().to_owned());
        url.set_username("").ok().context("removing the user from the URL")?;
        url.set_password(None).ok().context("removing the password from the URL")?;

        let mut request = client.request(method, url).basic_auth(user, Some(password));
        request = match body {
            Some(body) => request.json(&body),
            None => request.header("content-type", "application/json"),
        };
        let answer = request.send().await?.error_for_status()?.text().await?;
        if answer.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&answer)?) }
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        cleanup::block_on("deleting a virtual host", async {
            self.call(Method::DELETE, &self.path(), None).await?;
            let next = self.services.iter().map(|permission| self.next_user_of(permission.service));
            for user in self.users().into_iter().chain(next) {
                self.delete(&format!("users/{user}")).await?;
            }
            Ok(())
        });
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<reqwest::Error>().and_then(reqwest::Error::status);
    status == Some(reqwest::StatusCode::NOT_FOUND)
}

fn depth(queue: &Value) -> Option<(String, u64)> {
    let name = queue.get("name")?.as_str()?;
    // A queue that has not been counted yet has no figure: it is as new as the call, and so empty.
    let messages = queue.get("messages").and_then(Value::as_u64).unwrap_or(0);
    Some((name.to_owned(), messages))
}
