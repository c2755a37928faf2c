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
/// Who may do what.
const USERS: &str = include_str!("../../deploy/stores/redis.acl");
/// The password of services' users: the server is the test's own, and everybody may do everything by another user.
const USERS_PASSWORD: &str = "of-this-test";
const NEXT_PASSWORD: &str = "the-one-that-comes-next";
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// After so long without a sign a server of a cluster may be replaced; 15 s by default.
const CLUSTER_NODE_TIMEOUT_MS: u32 = 1_500;

/// A Redis server of its own, with an append-only file, on a loopback port.
///
/// Persistence is on (what was answered survives [`Redis::kill_and_restart`]) but not synced to the disk.
#[derive(Debug)]
pub struct Redis {
    directory: PathBuf,
    port: u16,
    /// The server's primary, while it is a replica.
    primary: Option<u16>,
    /// The port by which it talks to others of its cluster, if it is in one.
    bus_port: Option<u16>,
    /// `None` while stopped.
    process: Option<Process>,
}

/// A copy of a server's files, to restart from later; removed when dropped.
#[derive(Debug)]
pub struct RedisCopy {
    directory: PathBuf,
}

impl Drop for RedisCopy {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.directory).ok(); // Goes away with the run's folder otherwise.
    }
}

impl Redis {
    /// Starts a server with no data.
    ///
    /// # Panics
    /// If it cannot be started, or outside `./dev test`.
    pub async fn start() -> Self {
        Self::start_as(None).await
    }

    /// Starts a replica of this server and waits until it has caught up.
    ///
    /// # Panics
    /// If it cannot be started or does not catch up.
    pub async fn start_replica(&self) -> Self {
        let replica = Self::start_as(Some(self.port)).await;
        let deadline = Instant::now() + READY_WITHIN;
        while !replica.command("INFO replication").await.contains("master_link_status:up") {
            assert!(Instant::now() < deadline, "the replica on port {} does not catch up", replica.port);
            sleep(POLL_INTERVAL).await;
        }
        replica
    }

    /// Starts a server that can be in a cluster.
    pub(crate) async fn start_clustered() -> Self {
        Self::start_with(None, true).await
    }

    async fn start_as(primary: Option<u16>) -> Self {
        Self::start_with(primary, false).await
    }

    async fn start_with(primary: Option<u16>, clustered: bool) -> Self {
        let mut last_error = None;
        for _ in 0..START_ATTEMPTS {
            let (directory, bus_port) = (folder(), clustered.then(port::free));
            let mut redis = Self { directory, port: port::free(), primary, bus_port, process: None };
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

    /// The address with the user that `service` has in production, and its rights.
    pub fn url_of(&self, service: &str) -> String {
        format!("redis://{service}:{USERS_PASSWORD}@127.0.0.1:{}/", self.port)
    }

    /// Lets a service's user in by a second password, as when it is changed; the address with it.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn add_next_password(&self, service: &str) -> String {
        let answer = self.command(&format!("ACL SETUSER {service} >{NEXT_PASSWORD}")).await;
        assert!(answer.starts_with("+OK"), "the password of {service}: {answer}");
        self.url_of(service).replace(USERS_PASSWORD, NEXT_PASSWORD)
    }

    /// The first password of a service's user counts no more; connections that came by it stay.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn retire_password(&self, service: &str) {
        let answer = self.command(&format!("ACL SETUSER {service} <{USERS_PASSWORD}")).await;
        assert!(answer.starts_with("+OK"), "the password of {service}: {answer}");
    }

    /// Whether a service's user gets in by its first password.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn first_password_counts(&self, service: &str) -> bool {
        self.command(&format!("AUTH {service} {USERS_PASSWORD}")).await.starts_with("+OK")
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

    /// Makes a replica a server of its own: a fail-over to what it has by now, however far it lags behind.
    ///
    /// # Panics
    /// If the server does not confirm.
    pub async fn promote(&mut self) {
        self.primary = None;
        let answer = self.command("REPLICAOF NO ONE").await;
        assert!(answer.starts_with("+OK"), "REPLICAOF NO ONE was answered with {answer:?}");
    }

    /// Whether it has been started and not stopped; a frozen one runs, too.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// SIGSTOP: the server takes connections (the kernel does) and answers nothing until [`Redis::unfreeze`].
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

    /// Copies the server's files while it runs: what a backup of this moment would hold.
    ///
    /// # Panics
    /// If the files cannot be copied.
    pub fn copy(&self) -> RedisCopy {
        let copy = RedisCopy { directory: folder() };
        copy_files(&self.directory, &copy.directory).expect("the data folder can be copied");
        copy
    }

    /// Kills the server and starts it again on the files of `copy`: what was written since is lost.
    ///
    /// # Panics
    /// If it does not come back.
    pub async fn restart_from(&mut self, copy: &RedisCopy) {
        self.stop();
        std::fs::remove_dir_all(&self.directory).expect("the data folder can be removed");
        copy_files(&copy.directory, &self.directory).expect("the copy can be put in place");
        self.resume().await;
    }

    /// Kills the server, cuts up to `bytes` off the end of its append-only file and starts it again.
    ///
    /// # Panics
    /// If it does not come back.
    pub async fn restart_truncated(&mut self, bytes: u64) {
        self.stop();
        let file = self.append_only_file().expect("the server has an append-only file");
        let file = std::fs::File::options().write(true).open(file).expect("the file can be opened");
        let length = file.metadata().expect("a file has a length").len();
        file.set_len(length.saturating_sub(bytes)).expect("the file can be cut");
        self.resume().await;
    }

    /// Sends one inline command, such as `SCRIPT FLUSH`, and returns the raw answer.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn command(&self, command: &str) -> String {
        ask(self.port, command).await.unwrap_or_else(|error| panic!("{command}: {error:#}"))
    }

    /// The newest increment of the append-only file, where the last writes are.
    fn append_only_file(&self) -> Option<PathBuf> {
        let entries = std::fs::read_dir(self.directory.join("appendonlydir")).ok()?;
        let paths = entries.flatten().map(|entry| entry.path());
        paths.filter(|path| path.to_string_lossy().ends_with(".incr.aof")).max_by_key(|path| sequence(path))
    }

    fn running(&self) -> &Process {
        self.process.as_ref().unwrap_or_else(|| panic!("the Redis on port {} does not run", self.port))
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let log = self.directory.join("redis.log");
        let users = self.directory.join("users.acl");
        std::fs::write(&users, users_with_passwords())?;
        let (port, directory, primary) = (self.port, &self.directory, self.primary);
        let bus_port = self.bus_port;
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
                if let Some(bus_port) = bus_port {
                    command.args(["--cluster-enabled", "yes", "--cluster-port", &bus_port.to_string()]);
                    command.args(["--cluster-node-timeout", &CLUSTER_NODE_TIMEOUT_MS.to_string()]);
                    command.args(["--cluster-announce-ip", "127.0.0.1", "--repl-diskless-sync-delay", "0"]);
                    command.args(["--cluster-require-full-coverage", "no"]);
                }
                if let Some(primary) = primary {
                    // Without a pause for stragglers, which a test would wait for.
                    command.args(["--replicaof", "127.0.0.1", &primary.to_string()]);
                    command.args(["--repl-diskless-sync-delay", "0"]);
                }
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

/// A folder of its own for a server's files.
fn folder() -> PathBuf {
    environment::directory().join(format!("redis-{}", uuid::Uuid::new_v4().simple()))
}

/// The number in `appendonly.aof.<number>.incr.aof`; 0 where there is none.
fn sequence(path: &Path) -> u64 {
    let name = path.to_string_lossy().into_owned();
    name.split('.').rev().find_map(|part| part.parse().ok()).unwrap_or(0)
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_files(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Services' users; the default user needs no password here.
fn users_with_passwords() -> String {
    let users = USERS.replace(">@REDIS_ADMIN@", "nopass");
    let users = users.replace("@REDIS_STOCK@", USERS_PASSWORD).replace("@REDIS_GATEWAY@", USERS_PASSWORD);
    // An ACL file has no comments.
    users.lines().filter(|line| line.starts_with("user ")).fold(String::new(), |all, line| all + line + "\n")
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
