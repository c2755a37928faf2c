//! A private Redis primary with replicas, watched by sentinels.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::process::Process;
use crate::{Redis, environment, eventually, port};

const REPLICAS: usize = 2;
const SENTINELS: usize = 3;
/// Sentinels that must agree that the primary is away.
const QUORUM: usize = 2;
/// After so long without a sign a server counts as away; 30 s by default.
const DOWN_AFTER_MS: u32 = 1_000;
/// Twice as long until a fail-over that failed is tried again.
const FAILOVER_TIMEOUT_MS: u32 = 5_000;
const MASTER_NAME: &str = "inventory";
const PONG: &[u8] = b"+PONG\r\n";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const SETTLE_PAUSE: Duration = Duration::from_millis(50);

/// A primary, two replicas, and three sentinels, on loopback.
#[derive(Debug)]
pub struct RedisSentinels {
    servers: Vec<Redis>,
    sentinels: Vec<Sentinel>,
}

#[derive(Debug)]
struct Sentinel {
    port: u16,
    directory: PathBuf,
    _process: Process,
}

impl RedisSentinels {
    /// Starts servers without data, and the sentinels.
    ///
    /// # Panics
    /// If they cannot be started or do not find each other, or outside `./dev test`.
    pub async fn start() -> Self {
        let primary = Redis::start().await;
        let replicas = join_all((0..REPLICAS).map(|_| primary.start_replica())).await;
        let sentinels = (0..SENTINELS).map(|_| Sentinel::start(primary.port())).collect();
        let mut servers = vec![primary];
        servers.extend(replicas);
        let all = Self { servers, sentinels };
        all.healthy().await;
        all
    }

    /// What sentinels know the primary by.
    pub fn master_name(&self) -> &'static str {
        MASTER_NAME
    }

    /// The sentinels, `host:port` with commas between, as services take them.
    pub fn addresses(&self) -> String {
        let addresses = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port));
        addresses.collect::<Vec<_>>().join(",")
    }

    /// The server that most sentinels name.
    ///
    /// # Panics
    /// If they do not agree on one of ours.
    pub async fn primary(&self) -> usize {
        eventually("the sentinels name a primary", async || {
            let mut named = Vec::new();
            for sentinel in &self.sentinels {
                named.push(sentinel.names().await);
            }
            let votes = |server: &Redis| named.iter().filter(|port| **port == Some(server.port())).count();
            self.servers.iter().position(|server| votes(server) >= QUORUM)
        })
        .await
    }

    /// Waits until the sentinels know each other and every server that runs, and the replicas have caught up.
    ///
    /// # Panics
    /// If that does not happen.
    pub async fn healthy(&self) {
        eventually("the sentinels are ready for a fail-over", async || {
            for sentinel in &self.sentinels {
                let ready =
                    sentinel.ask(&format!("SENTINEL CKQUORUM {MASTER_NAME}")).await.starts_with("+OK");
                let about = sentinel.ask("INFO sentinel").await;
                let known = format!("slaves={REPLICAS},sentinels={SENTINELS}");
                if !ready || !about.contains("status=ok") || !about.contains(&known) {
                    return None;
                }
            }
            let mut replicas = 0;
            for server in self.servers.iter().filter(|server| server.is_running()) {
                let replication = server.command("INFO replication").await;
                if replication.contains("master_link_status:up") {
                    replicas += 1;
                }
            }
            let running = self.servers.iter().filter(|server| server.is_running()).count();
            (replicas + 1 == running).then_some(())
        })
        .await;
    }

    /// Kills a server (SIGKILL); its data stays for [`RedisSentinels::resume`].
    pub fn stop(&mut self, server: usize) {
        self.servers[server].stop();
    }

    /// Starts a stopped server again; the sentinels make it a replica if it was replaced.
    ///
    /// # Panics
    /// If it does not come back.
    pub async fn resume(&mut self, server: usize) {
        self.servers[server].resume().await;
        sleep(SETTLE_PAUSE).await;
        self.healthy().await;
    }

    /// SIGSTOP: a server that is cut off, and still believes what it believed when [`RedisSentinels::unfreeze`] wakes it.
    ///
    /// # Panics
    /// If it does not run.
    pub fn freeze(&self, server: usize) {
        self.servers[server].freeze();
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// If it does not run.
    pub fn unfreeze(&self, server: usize) {
        self.servers[server].unfreeze();
    }

    /// Waits until another server than this one is the primary.
    ///
    /// # Panics
    /// If that does not happen.
    pub async fn replaced(&self, server: usize) {
        eventually("the sentinels have promoted a replica", async || {
            (self.primary().await != server).then_some(())
        })
        .await;
    }
}

impl Sentinel {
    fn start(primary: u16) -> Self {
        let directory = environment::directory().join(format!("sentinel-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&directory).expect("a folder for a sentinel");
        let (port, file) = (port::free(), directory.join("sentinel.conf"));
        // A sentinel writes what it learns into this file.
        let settings = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {MASTER_NAME} 127.0.0.1 {primary} {QUORUM}\n\
             sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER_MS}\n\
             sentinel failover-timeout {MASTER_NAME} {FAILOVER_TIMEOUT_MS}\n\
             sentinel parallel-syncs {MASTER_NAME} {REPLICAS}\n",
            directory.display()
        );
        std::fs::write(&file, settings).expect("the settings of a sentinel");
        let process = Process::start(
            Path::new("redis-server"),
            |command| {
                command.arg(&file).arg("--sentinel").current_dir(&directory);
            },
            &directory.join("sentinel.log"),
        );
        Self { port, directory, _process: process.expect("a sentinel starts") }
    }

    async fn ask(&self, command: &str) -> String {
        let conversation = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            // A sentinel knows no QUIT: the answer to PING says that the one before it is whole.
            stream.write_all(format!("{command}\r\nPING\r\n").as_bytes()).await?;
            let mut answer = Vec::new();
            while !answer.ends_with(PONG) && stream.read_buf(&mut answer).await? > 0 {}
            std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        // One that does not answer names nobody.
        timeout(ANSWER_TIMEOUT, conversation).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// The port of the primary.
    async fn names(&self) -> Option<u16> {
        let answer = self.ask(&format!("SENTINEL GET-MASTER-ADDR-BY-NAME {MASTER_NAME}")).await;
        // *2, $9, 127.0.0.1, $5, the port.
        answer.lines().nth(4)?.trim().parse().ok()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.directory).ok(); // Goes away with the run's folder otherwise.
    }
}
