//! A private RabbitMQ node, for tests that kill it or take its data away.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::Url;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::process::Process;
use crate::{Vhost, environment, port};

const USER: &str = "stampede";
/// An Erlang virtual machine that starts on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(240);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);
/// As in `./dev test`; see [`Vhost::queue_depths`].
const STATISTICS_INTERVAL_MS: u32 = 250;
/// How much of a node's log goes into a panic.
const LAST_WORDS_BYTES: usize = 4_096;
/// What opens an AMQP 0-9-1 connection.
const GREETING: &[u8] = b"AMQP\x00\x00\x09\x01";

/// A RabbitMQ node of its own on loopback, with the management API, its port mapper and its data folder.
#[derive(Debug)]
pub struct RabbitNode {
    folder: PathBuf,
    name: String,
    /// The names of the nodes that it joins when it has no data, itself among them.
    cluster: Vec<String>,
    password: String,
    amqp_port: u16,
    api_port: u16,
    epmd_port: u16,
    distribution_port: u16,
    /// `None` while stopped.
    node: Option<Process>,
    /// Started by the first start of the node, and stays.
    epmd: Option<Process>,
}

impl RabbitNode {
    /// Starts a node without data. Takes some seconds.
    ///
    /// # Panics
    /// If it cannot be started, or outside `./dev test`.
    pub async fn start() -> Self {
        let mut node = Self::new("stampede@localhost", &[], None);
        node.resume().await;
        node
    }

    /// A node that is to be started. `first`: the node of the same cluster that has the port mapper.
    pub(crate) fn new(name: &str, cluster: &[String], first: Option<&Self>) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let ports = [(); 4].map(|()| port::reserve());
        let node = Self {
            folder: environment::directory().join(format!("rabbitmq-{id}")),
            name: name.to_owned(),
            cluster: cluster.to_vec(),
            password: first.map_or(id, |first| first.password.clone()),
            amqp_port: ports[0].port,
            api_port: ports[1].port,
            epmd_port: first.map_or(ports[2].port, |first| first.epmd_port),
            distribution_port: ports[3].port,
            node: None,
            epmd: None,
        };
        drop(ports);
        node.configure().expect("a node can be configured");
        node
    }

    /// The node's default virtual host, with an administrator; it comes back by itself when the node lost everything.
    pub fn vhost(&self) -> Vhost {
        Vhost::default_of(self.url("amqp", self.amqp_port, "/%2f"), self.url("http", self.api_port, "/"))
    }

    /// The port of the AMQP listener, the same over all restarts.
    pub fn amqp_port(&self) -> u16 {
        self.amqp_port
    }

    /// Kills the node (SIGKILL); the data stays for [`RabbitNode::resume`].
    pub fn stop(&mut self) {
        self.node = None;
    }

    /// Kills the node (SIGKILL) and removes its data: what comes back is another broker.
    ///
    /// # Panics
    /// If the data cannot be removed.
    pub fn stop_and_wipe(&mut self) {
        self.stop();
        std::fs::remove_dir_all(self.folder.join("mnesia")).expect("the data folder can be removed");
    }

    /// SIGSTOP: connections stay open and nothing is answered until [`RabbitNode::unfreeze`].
    ///
    /// # Panics
    /// If it does not run.
    pub fn freeze(&self) {
        self.running().signal("STOP").expect("a signal can be sent");
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// If it does not run.
    pub fn unfreeze(&self) {
        self.running().signal("CONT").expect("a signal can be sent");
    }

    /// Raises (or ends) the memory alarm: publishers are blocked, consumers are not.
    ///
    /// # Panics
    /// If the node does not take the command.
    pub async fn alarm(&self, raised: bool) {
        let watermark = if raised { "0.0000001" } else { "0.6" };
        let mut command =
            tokio::process::Command::new(program("rabbitmqctl").expect("RabbitMQ is installed"));
        self.environment(command.as_std_mut());
        let status = command.args(["-q", "set_vm_memory_high_watermark", watermark]).status().await;
        assert!(status.expect("rabbitmqctl starts").success(), "the alarm could not be set to {raised}");
    }

    /// Starts a stopped node, waits until it takes connections, and says when that was.
    ///
    /// # Panics
    /// If it does not.
    pub async fn resume(&mut self) -> Instant {
        self.launch().expect("a node can be started");
        let deadline = Instant::now() + READY_WITHIN;
        while !self.greets().await {
            let node = self.node.as_mut().expect("it has just been started");
            if let Some(status) = node.exit_status().expect("a process has a state") {
                panic!("RabbitMQ ended ({status}):\n{}", self.last_words());
            }
            assert!(
                Instant::now() < deadline,
                "RabbitMQ on port {} is not ready:\n{}",
                self.amqp_port,
                self.last_words()
            );
            sleep(POLL_INTERVAL).await;
        }
        let answered = Instant::now();
        // The management API opens its port a little later.
        while TcpStream::connect(("127.0.0.1", self.api_port)).await.is_err() {
            assert!(Instant::now() < deadline, "RabbitMQ's API on port {} is not ready", self.api_port);
            sleep(POLL_INTERVAL).await;
        }
        answered
    }

    fn running(&self) -> &Process {
        self.node.as_ref().expect("the node runs")
    }

    fn url(&self, scheme: &str, port: u16, path: &str) -> Url {
        let url = format!("{scheme}://{USER}:{}@127.0.0.1:{port}{path}", self.password);
        Url::parse(&url).expect("made of parts that fit")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("rabbitmq.log")
    }

    /// The end of what the node has said.
    fn last_words(&self) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LAST_WORDS_BYTES)..]).into_owned()
    }

    fn configure(&self) -> anyhow::Result<()> {
        let Self { folder, password, amqp_port, api_port, .. } = self;
        std::fs::create_dir_all(folder)?;
        let config = format!(
            "listeners.tcp.1 = 127.0.0.1:{amqp_port}\n\
             default_user = {USER}\ndefault_pass = {password}\nloopback_users = none\n\
             management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {api_port}\n\
             collect_statistics_interval = {STATISTICS_INTERVAL_MS}\n\
             vm_memory_high_watermark.absolute = 1GB\ndisk_free_limit.absolute = 50MB\n\
             raft.wal_max_size_bytes = 33554432\n"
        );
        let mut config = config;
        if !self.cluster.is_empty() {
            config.push_str("cluster_formation.peer_discovery_backend = classic_config\n");
            config.push_str("cluster_partition_handling = pause_minority\n");
            for (n, node) in self.cluster.iter().enumerate() {
                config.push_str(&format!("cluster_formation.classic_config.nodes.{} = {node}\n", n + 1));
            }
        }
        // As deploy/local/rabbitmq.sh has it, but for the tick, which metrics wait for.
        let advanced = format!(
            "[{{rabbit, [{{quorum_snapshot_interval, 256}}, {{quorum_tick_interval, {STATISTICS_INTERVAL_MS}}}]}}]."
        );
        let files = [
            ("rabbitmq.conf", config.as_str()),
            ("advanced.config", advanced.as_str()),
            ("enabled_plugins", "[rabbitmq_management]."),
            ("no-rabbitmq-env.conf", ""),
            (".erlang.cookie", password.as_str()),
        ];
        for (name, content) in files {
            std::fs::write(folder.join(name), content)?;
        }
        // Erlang refuses a cookie that others can read.
        let mut permissions = std::fs::metadata(folder.join(".erlang.cookie"))?.permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o400);
        std::fs::set_permissions(folder.join(".erlang.cookie"), permissions)?;
        Ok(())
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let first = self.cluster.first().is_none_or(|first| *first == self.name);
        if first && self.epmd.is_none() {
            let port = self.epmd_port.to_string();
            let configure = |command: &mut Command| {
                command.args(["-port", &port, "-address", "127.0.0.1"]);
            };
            self.epmd = Some(Process::start(Path::new("epmd"), configure, &self.log())?);
        }
        let server = program("rabbitmq-server")?;
        let configure = |command: &mut Command| self.environment(command);
        self.node = Some(Process::start(&server, configure, &self.log())?);
        Ok(())
    }

    /// The same as `deploy/local/rabbitmq.sh` gives, for the same reasons.
    fn environment(&self, command: &mut Command) {
        let inside = |name: &str| self.folder.join(name);
        command.env_remove("NOTIFY_SOCKET").env("HOME", &self.folder).current_dir(&self.folder);
        command.env("ERL_EPMD_PORT", self.epmd_port.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command.env("RABBITMQ_NODENAME", &self.name);
        command.env("RABBITMQ_DIST_PORT", self.distribution_port.to_string());
        command.env("RABBITMQ_BASE", &self.folder).env("RABBITMQ_MNESIA_BASE", inside("mnesia"));
        command.env("RABBITMQ_LOG_BASE", inside("log")).env("RABBITMQ_PID_FILE", inside("rabbitmq.pid"));
        command.env("RABBITMQ_CONFIG_FILE", inside("rabbitmq.conf"));
        command.env("RABBITMQ_ADVANCED_CONFIG_FILE", inside("advanced.config"));
        command.env("RABBITMQ_CONF_ENV_FILE", inside("no-rabbitmq-env.conf"));
        command.env("RABBITMQ_ENABLED_PLUGINS_FILE", inside("enabled_plugins"));
        command.env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}",
        );
        // Makes the script become the Erlang VM instead of waiting for it: one process, the one that is killed.
        command.env("RUNNING_UNDER_SYSTEMD", "true");
    }

    /// Whether the AMQP listener answers the protocol's greeting.
    async fn greets(&self) -> bool {
        let greeting = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.amqp_port)).await?;
            stream.write_all(GREETING).await?;
            stream.read_u8().await
        };
        timeout(HANDSHAKE_TIMEOUT, greeting).await.is_ok_and(|answer| answer.is_ok())
    }
}

impl Drop for RabbitNode {
    fn drop(&mut self) {
        (self.node, self.epmd) = (None, None);
        std::fs::remove_dir_all(&self.folder).ok(); // Goes away with the run's folder otherwise.
    }
}

/// A script of the newest installed RabbitMQ. Not the distribution's wrapper, which uses the machine's own folders.
fn program(name: &str) -> anyhow::Result<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/rabbitmq/lib").context("RabbitMQ is not installed")?;
    let newest = installed.flatten().map(|entry| entry.path()).max();
    newest.map(|folder| folder.join("sbin").join(name)).context("RabbitMQ is not installed")
}
