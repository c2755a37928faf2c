//! A private Redis server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::process::Process;
use crate::{environment, port};

/// Free ports that may be taken by somebody else between looking and starting.
const START_ATTEMPTS: usize = 20;
const READY_WITHIN: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A Redis server of its own, with an append-only file, on a loopback port.
///
/// Persistence is on (what was answered survives [`Redis::kill_and_restart`]) but not synced to the disk.
#[derive(Debug)]
pub struct Redis {
    directory: PathBuf,
    port: u16,
    /// Of every user but the first, who needs none.
    password: String,
    /// `None` while stopped.
    process: Option<Process>,
}

/// The users that services have; see deploy/stores.
const USERS: &str = include_str!("../../deploy/stores/redis.acl");

impl Redis {
    /// Starts a server with no data.
    ///
    /// # Panics
    /// If it cannot be started, or outside `./dev test`.
    pub async fn start() -> Self {
        let directory = environment::directory().join(format!("redis-{}", uuid::Uuid::new_v4().simple()));
        let mut last_error = None;
        for _ in 0..START_ATTEMPTS {
            let password = uuid::Uuid::new_v4().simple().to_string();
            let mut redis =
                Self { directory: directory.clone(), port: port::free(), password, process: None };
            match redis.launch().await {
                Ok(()) => return redis,
                Err(error) => last_error = Some(error),
            }
        }
        panic!("no private Redis after {START_ATTEMPTS} attempts: {last_error:?}");
    }

    /// `redis://127.0.0.1:<port>/`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// `redis://<service>:<password>@127.0.0.1:<port>/`, with the rights that this service has in production.
    pub fn url_of(&self, service: &str) -> String {
        format!("redis://{service}:{}@127.0.0.1:{}/", self.password, self.port)
    }

    /// The users, one a line: an ACL file has no comments.
    fn users(&self) -> String {
        let users = USERS.replace(">@REDIS_ADMIN@", "nopass");
        let users = users.replace("@REDIS_STOCK@", &self.password).replace("@REDIS_GATEWAY@", &self.password);
        users
            .lines()
            .filter(|line| line.starts_with("user "))
            .fold(String::new(), |all, line| all + line + "\n")
    }

    /// The port, the same over all restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server (SIGKILL) and starts it again on the same data and port.
    ///
    /// # Panics
    /// If it does not come back.
    pub async fn kill_and_restart(&mut self) {
        self.stop();
        self.resume().await;
    }

    /// Loses all data: kills the server, removes its files and starts it again on the same port.
    ///
    /// # Panics
    /// If it does not come back.
    pub async fn wipe(&mut self) {
        self.stop();
        std::fs::remove_dir_all(&self.directory).expect("the data folder can be removed");
        self.resume().await;
    }

    /// Kills the server (SIGKILL); the data stays for [`Redis::resume`].
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts a stopped server again, on the same data and port.
    ///
    /// # Panics
    /// If it does not come back.
    pub async fn resume(&mut self) {
        let mut last_error = None;
        for _ in 0..START_ATTEMPTS {
            match self.launch().await {
                Ok(()) => return,
                Err(error) => last_error = Some(error),
            }
            sleep(Duration::from_millis(100)).await; // The port may be in use by a connection that is just ending.
        }
        panic!("Redis did not come back on port {}: {last_error:?}", self.port);
    }

    /// Empties the running server (`FLUSHALL`): the data is lost, the process is not.
    ///
    /// # Panics
    /// If the server does not confirm.
    pub async fn flush_all(&self) {
        let answer = ask(self.port, "FLUSHALL SYNC").await.expect("Redis answers");
        assert!(answer.starts_with("+OK"), "FLUSHALL was answered with {answer:?}");
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let log = self.directory.join("redis.log");
        let users = self.directory.join("users.acl");
        std::fs::write(&users, self.users())?;
        let (port, directory) = (self.port, &self.directory);
        let process = Process::start(
            Path::new("redis-server"),
            |command| {
                command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
                command.args([
                    "--appendonly",
                    "yes",
                    "--appendfsync",
                    "no",
                    "--maxmemory-policy",
                    "noeviction",
                ]);
                command.arg("--aclfile").arg(&users);
                command.arg("--dir").arg(directory).current_dir(directory);
            },
            &log,
        )?;
        let process = self.process.insert(process);

        let deadline = Instant::now() + READY_WITHIN;
        while !answers(port, process.id()).await {
            if let Some(status) = process.exit_status()? {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                anyhow::bail!("redis-server on port {port} ended ({status}): {log}");
            }
            anyhow::ensure!(Instant::now() < deadline, "redis-server on port {port} is not ready");
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
        std::fs::remove_dir_all(&self.directory).ok(); // Goes away with the run's folder otherwise.
    }
}

/// Whether the server on `port` is the process `id` and has loaded its data.
///
/// The process id matters: if the port was taken in between, somebody else's Redis would answer.
async fn answers(port: u16, id: u32) -> bool {
    let Ok(info) = ask(port, "INFO server").await else { return false };
    let ours = info.contains(&format!("process_id:{id}\r\n"));
    ours && ask(port, "PING").await.is_ok_and(|answer| answer.starts_with("+PONG"))
}

/// Sends one inline command on a connection of its own and returns the raw answer.
async fn ask(port: u16, command: &str) -> anyhow::Result<String> {
    let conversation = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    timeout(Duration::from_secs(10), conversation).await.context("no answer within 10 s")?
}
