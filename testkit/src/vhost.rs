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
    /// Also the name and the password of the user.
    name: String,
    api: Url,
    /// Services that have a user of their own here.
    services: Vec<Permission>,
}

/// What one service may do; see deploy/stores.
#[derive(Debug)]
struct Permission {
    service: &'static str,
    configure: &'static str,
    write: &'static str,
    read: &'static str,
}

/// The permissions that services have.
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

    /// As [`Vhost::create`], with a user for each service that has the rights of production.
    ///
    /// # Panics
    /// If RabbitMQ refuses, or outside `./dev test`.
    pub async fn create_with_services() -> Self {
        Self::create_for(permissions()).await
    }

    async fn create_for(services: Vec<Permission>) -> Self {
        let name = format!("t-{}", uuid::Uuid::new_v4().simple());
        let vhost = Self { name, api: environment::rabbitmq_api_url(), services };
        for user in vhost.users() {
            let body = json!({ "password": vhost.name, "tags": "" });
            vhost.call(Method::PUT, &format!("users/{user}"), Some(body)).await.expect("the user is created");
        }
        vhost.fill().await.expect("the virtual host is created");
        vhost
    }

    /// The user of everything, then the services'.
    fn users(&self) -> Vec<String> {
        let services = self.services.iter().map(|permission| self.user_of(permission.service));
        std::iter::once(self.name.clone()).chain(services).collect()
    }

    fn user_of(&self, service: &str) -> String {
        format!("{}-{service}", self.name)
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

    /// `amqp://user:password@host:port/<name>`
    pub fn url(&self) -> String {
        let mut url = environment::rabbitmq_url();
        url.set_username(&self.name).expect("an amqp URL has room for a user");
        url.set_password(Some(&self.name)).expect("an amqp URL has room for a password");
        url.set_path(&self.name);
        url.into()
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

    /// Creates the virtual host itself, with permissions.
    async fn fill(&self) -> anyhow::Result<()> {
        self.call(Method::PUT, &self.path(), None).await?;
        let everything = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        self.call(Method::PUT, &format!("permissions/{0}/{0}", self.name), Some(everything)).await?;
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
        cleanup::block_on("deleting a virtual host", async {
            self.call(Method::DELETE, &self.path(), None).await?;
            for user in self.users() {
                self.call(Method::DELETE, &format!("users/{user}"), None).await?;
            }
            Ok(())
        });
    }
}

fn depth(queue: &Value) -> Option<(String, u64)> {
    let name = queue.get("name")?.as_str()?;
    // A queue that has not been counted yet has no figure: it is as new as the call, and so empty.
    let messages = queue.get("messages").and_then(Value::as_u64).unwrap_or(0);
    Some((name.to_owned(), messages))
}
