//! The whole system: the four services as processes, on stores of their own.

mod settings;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::StatusCode;
use tokio::time::{Instant, sleep};

use self::settings::{Plan, SERVICES};
use crate::process::Process;
use crate::{Database, Redis, Vhost, environment, init};

/// Generous: a debug build on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A service's drain time (15 s) and some.
const STOPPED_WITHIN: Duration = Duration::from_secs(25);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The four services of the workspace as processes, on a Redis, a virtual host and two databases of their own.
///
/// Processes are called as in `.dev/pids`: `gateway`, `stock-service`, `order-service`, `notify-service`, and
/// `gateway-2` and so on for further replicas. They keep their ports over restarts. Their output goes to
/// `logs/<world>/<name>.log` in the folder of the test run, which `./dev test` keeps when a test fails.
#[derive(Debug)]
pub struct Services {
    // Fields are dropped in this order: processes before the stores that they use.
    processes: BTreeMap<String, Process>,
    plan: Plan,
    logs: PathBuf,
    http: reqwest::Client,
    stores: Stores,
}

/// What one system of services keeps its data in.
#[derive(Debug)]
pub struct Stores {
    /// The inventory.
    pub redis: Redis,
    /// The broker.
    pub vhost: Vhost,
    /// The database of order-service.
    pub orders: Database,
    /// The database of notify-service.
    pub notify: Database,
}

impl Stores {
    /// Empty ones, on the test run's servers and a Redis of its own.
    ///
    /// # Panics
    /// If a server refuses, or outside `./dev test`.
    pub async fn create() -> Self {
        let (redis, vhost, orders, notify) = tokio::join!(
            Redis::start(),
            Vhost::create(),
            Database::create("orders"),
            Database::create("notify"),
        );
        Self { redis, vhost, orders, notify }
    }

    /// As [`Stores::create`], with the users that services have in production, and their rights; see deploy/stores.
    ///
    /// # Panics
    /// If a server refuses, or outside `./dev test`.
    pub async fn create_with_rights() -> Self {
        let (redis, vhost, orders, notify) = tokio::join!(
            Redis::start(),
            Vhost::create_with_services(),
            Database::create_with_role("orders"),
            Database::create_with_role("notify"),
        );
        Self { redis, vhost, orders, notify }
    }

    /// Where each service finds them with its own user.
    fn addresses(&self) -> [(&'static str, String); 9] {
        let Self { redis, vhost, orders, notify } = self;
        [
            ("GATEWAY__REDIS__URL", redis.url_of("gateway")),
            ("STOCK_SERVICE__REDIS__URL", redis.url_of("stock-service")),
            ("STOCK_SERVICE__AMQP__URL", vhost.url_of("stock-service")),
            ("ORDER_SERVICE__DATABASE__URL", orders.role_url()),
            ("ORDER_SERVICE__DATABASE__MIGRATION_URL", orders.url()),
            ("ORDER_SERVICE__AMQP__URL", vhost.url_of("order-service")),
            ("NOTIFY_SERVICE__DATABASE__URL", notify.role_url()),
            ("NOTIFY_SERVICE__DATABASE__MIGRATION_URL", notify.url()),
            ("NOTIFY_SERVICE__AMQP__URL", vhost.url_of("notify-service")),
        ]
    }
}

impl Services {
    /// One process of each service, ready.
    ///
    /// # Panics
    /// If a service does not become ready; its log is in the message.
    pub async fn start() -> Self {
        Self::start_with(1, &[]).await
    }

    /// `replicas` processes of each service, ready; `settings` are environment variables that win over the defaults,
    /// such as `("ORDER_SERVICE__TELEMETRY__LOG", "debug")`.
    ///
    /// # Panics
    /// If a service does not become ready; its log is in the message.
    pub async fn start_with(replicas: usize, settings: &[(&str, &str)]) -> Self {
        let stores = Stores::create_with_rights().await;
        let addresses = stores.addresses();
        let mut services = Self::prepare(stores, replicas, settings);
        for (key, value) in &addresses {
            services.set(key, value);
        }
        services.launch().await;
        services
    }

    /// As [`Services::start_with`], on these stores, and nothing is started yet: for whoever wants to put something
    /// between the processes, or to [`Services::set`] more before [`Services::launch`].
    ///
    /// # Panics
    /// Outside `./dev test`.
    pub fn prepare(stores: Stores, replicas: usize, settings: &[(&str, &str)]) -> Self {
        init();
        let mut plan = Plan::new(replicas, settings);
        let Stores { redis, vhost, orders, notify } = &stores;
        plan.connect(&redis.url(), &vhost.url(), &orders.url(), &notify.url());

        let logs = environment::directory().join("logs").join(plan.world());
        std::fs::create_dir_all(&logs).expect("the folder for logs can be made");
        let http = reqwest::Client::builder().no_proxy().timeout(REQUEST_TIMEOUT).build();
        let http = http.expect("an HTTP client can be built");
        let processes = BTreeMap::new();

        Self { processes, plan, logs, http, stores }
    }

    /// Starts every process and waits until all are ready.
    ///
    /// # Panics
    /// If a service does not become ready; its log is in the message.
    pub async fn launch(&mut self) {
        for name in self.plan.release_ports() {
            self.spawn(&name);
        }
        for name in self.names() {
            self.wait_until_ready(&name).await;
        }
    }

    /// A setting of a service, such as `STOCK_SERVICE__REDIS__URL`, for its processes that are started from now on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.plan.set(key, value);
    }

    /// A variable in the environment of one process, from its next start on; `None` removes it.
    ///
    /// # Panics
    /// If there is no process of this name.
    pub fn set_variable(&mut self, name: &str, key: &str, value: Option<&str>) {
        self.plan.set_variable(name, key, value);
    }

    /// The process id; `None` while it does not run.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.processes.get(name).map(Process::id)
    }

    /// Processes that have ended although nobody ended them, with how. They are no longer known as running.
    ///
    /// # Panics
    /// If the state of a process cannot be had.
    pub fn ended(&mut self) -> Vec<(String, ExitStatus)> {
        let mut ended = Vec::new();
        for (name, process) in &mut self.processes {
            if let Some(status) = process.exit_status().expect("a process has a state") {
                ended.push((name.clone(), status));
            }
        }
        for (name, _) in &ended {
            self.processes.remove(name);
        }
        ended
    }

    /// The folder of the processes' logs, `<name>.log`.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// The names of all processes, running or not.
    pub fn names(&self) -> Vec<String> {
        self.plan.names()
    }

    /// The base URL of a process' HTTP port, without a slash at the end.
    ///
    /// # Panics
    /// If there is no process of this name.
    pub fn url(&self, name: &str) -> String {
        self.plan.url(name)
    }

    /// The public base URLs of all gateways.
    pub fn gateway_urls(&self) -> Vec<String> {
        self.plan.urls_of("gateway")
    }

    /// The public base URLs of all processes of a service.
    pub fn urls_of(&self, service: &str) -> Vec<String> {
        self.plan.urls_of(service)
    }

    /// The base URL of a gateway's ops port, where `/readyz` and `/metrics` are.
    ///
    /// # Panics
    /// If there is no gateway of this name.
    pub fn ops_url(&self, name: &str) -> String {
        self.plan.ops_url(name)
    }

    /// The key by which the sandbox payment provider signs its callbacks.
    pub fn sandbox_secret(&self) -> &str {
        &self.plan.sandbox_secret
    }

    /// The key by which the gateway signs and checks tokens.
    pub fn jwt_secret(&self) -> &str {
        &self.plan.jwt_secret
    }

    /// The token that internal calls carry.
    pub fn internal_token(&self) -> &str {
        &self.plan.internal_token
    }

    /// The stock-service's Redis.
    pub fn redis(&self) -> &Redis {
        &self.stores.redis
    }

    /// The stock-service's Redis, to be stopped, restarted or wiped.
    pub fn redis_mut(&mut self) -> &mut Redis {
        &mut self.stores.redis
    }

    /// The broker as far as this world can see it.
    pub fn vhost(&self) -> &Vhost {
        &self.stores.vhost
    }

    /// The order-service's database.
    pub fn orders_database(&self) -> &Database {
        &self.stores.orders
    }

    /// The notify-service's database.
    pub fn notify_database(&self) -> &Database {
        &self.stores.notify
    }

    /// Kills a process (SIGKILL). Nothing happens if it does not run.
    ///
    /// # Panics
    /// If there is no process of this name.
    pub fn kill(&mut self, name: &str) {
        self.plan.url(name); // Panics on a name that does not exist.
        self.processes.remove(name);
    }

    /// SIGSTOP: the process keeps everything and does nothing, until [`Services::unfreeze`].
    ///
    /// # Panics
    /// If it does not run.
    pub fn freeze(&self, name: &str) {
        self.running(name).signal("STOP").expect("a signal can be sent");
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// If it does not run.
    pub fn unfreeze(&self, name: &str) {
        self.running(name).signal("CONT").expect("a signal can be sent");
    }

    fn running(&self, name: &str) -> &Process {
        self.processes.get(name).unwrap_or_else(|| panic!("{name} does not run"))
    }

    /// Asks a process to stop (SIGTERM) and waits until it has drained and ended.
    ///
    /// # Panics
    /// If it does not run, fails, or does not end within its drain time.
    pub async fn stop(&mut self, name: &str) {
        let stopped = self.try_stop(name).await;
        stopped.unwrap_or_else(|error| panic!("{error}:\n{}", self.log(name)));
    }

    /// As [`Services::stop`], for whoever goes on if it fails. The process is gone in any case.
    ///
    /// # Errors
    /// It does not end well, or not within its drain time.
    ///
    /// # Panics
    /// If it does not run.
    pub async fn try_stop(&mut self, name: &str) -> anyhow::Result<()> {
        let mut process = self.processes.remove(name).unwrap_or_else(|| panic!("{name} does not run"));
        process.terminate()?;
        let deadline = Instant::now() + STOPPED_WITHIN;
        loop {
            match process.exit_status()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => anyhow::bail!("{name} failed when it was stopped ({status})"),
                None => anyhow::ensure!(Instant::now() < deadline, "{name} does not end"),
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Starts a process again, killing it first if it runs, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready; its log is in the message.
    pub async fn restart(&mut self, name: &str) {
        self.start_again(name);
        self.wait_until_ready(name).await;
    }

    /// As [`Services::restart`], but does not wait: for when a store is away on purpose.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_again(&mut self, name: &str) {
        self.kill(name);
        self.spawn(name);
    }

    /// Waits until a process says that it is ready.
    ///
    /// # Panics
    /// If it ends or does not become ready within a minute; its log is in the message.
    pub async fn wait_until_ready(&mut self, name: &str) {
        let url = format!("{}/readyz", self.plan.ops_url(name));
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let answer = self.http.get(&url).send().await;
            if answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::OK) {
                return;
            }
            let process = self.processes.get_mut(name).unwrap_or_else(|| panic!("{name} does not run"));
            if let Some(status) = process.exit_status().expect("a process has a state") {
                panic!("{name} ended instead of becoming ready ({status}):\n{}", self.log(name));
            }
            assert!(Instant::now() < deadline, "{name} is not ready, {answer:?}:\n{}", self.log(name));
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Everything a process has written so far, over all its restarts.
    pub fn log(&self, name: &str) -> String {
        let log = std::fs::read(self.log_path(name)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn spawn(&mut self, name: &str) {
        let program = program(self.plan.service_of(name)).expect("the binaries have been built");
        let variables = self.plan.variables(name);
        let directory = self.logs.clone();
        let configure = |command: &mut std::process::Command| {
            command.current_dir(directory).env("NO_COLOR", "1").envs(variables);
        };
        let process = Process::start(&program, configure, &self.log_path(name));
        self.processes.insert(name.to_owned(), process.expect("a service can be started"));
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.processes.clear();
        if std::thread::panicking() {
            eprintln!("testkit: the services' logs are in {}", self.logs.display());
        } else {
            std::fs::remove_dir_all(&self.logs).ok(); // Only logs of failed tests are of interest.
        }
    }
}

/// The binary of a service: in the folder that was given, or beside the folder of the running test binary,
/// `target/<profile>/deps/..`.
fn program(service: &str) -> anyhow::Result<PathBuf> {
    debug_assert!(SERVICES.contains(&service));
    let program = match environment::binaries() {
        Some(folder) => folder.join(service),
        None => {
            let test = std::env::current_exe()?;
            let profile = test.parent().and_then(Path::parent);
            profile.context("a test binary is in target/<profile>/deps")?.join(service)
        }
    };
    anyhow::ensure!(program.exists(), "{} is missing: run `./dev test`, which builds it", program.display());
    Ok(program)
}
