//! A private Postgres server, for tests that stop it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use reqwest::Url;
use tokio::time::{Instant, sleep, timeout};

use crate::Database;
use crate::process::Process;
use crate::{environment, port};

const SUPERUSER: &str = "stampede";
const READY_WITHIN: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The package's user. Postgres refuses to run as root.
const UNPRIVILEGED: [&str; 5] = ["--reuid=postgres", "--regid=postgres", "--clear-groups", "env", "HOME=/"];

/// A Postgres server of its own on a loopback port. Commits are flushed to the disk, as in production.
#[derive(Debug)]
pub struct PostgresServer {
    folder: PathBuf,
    log: PathBuf,
    password: String,
    port: u16,
    /// `None` while stopped.
    process: Option<Process>,
}

impl PostgresServer {
    /// Makes an empty cluster and starts it. Takes some seconds.
    ///
    /// # Panics
    /// If it cannot be started, or outside `./dev test`.
    pub async fn start() -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let folder = environment::directory().join(format!("postgres-{id}"));
        let log = environment::directory().join(format!("postgres-{id}.log"));
        let mut server = Self { folder, log, password: id, port: port::free(), process: None };
        server.create().expect("a cluster can be made");
        server.resume().await;
        server
    }

    /// Starts a streaming replica with a copy of this server's data. Takes some seconds.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn start_replica(&self) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let folder = environment::directory().join(format!("postgres-{id}"));
        let log = environment::directory().join(format!("postgres-{id}.log"));
        let password = self.password.clone();
        let mut replica = Self { folder, log, password, port: port::free(), process: None };
        replica.copy_of(self.port).expect("a copy can be made");
        replica.resume().await;
        replica
    }

    /// `postgres://user:password@host:port/<database>`, as the superuser: where another server's database is on this one.
    pub fn url_of(&self, database: &Database) -> String {
        let mut url = self.server_url();
        url.set_path(database.name());
        url.into()
    }

    /// `postgres://user:password@host:port/postgres`, as the superuser.
    pub fn url(&self) -> String {
        self.server_url().into()
    }

    pub(crate) fn server_url(&self) -> Url {
        let url = format!("postgres://{SUPERUSER}:{}@127.0.0.1:{}/postgres", self.password, self.port);
        Url::parse(&url).expect("made of parts that fit")
    }

    /// The port, the same over all restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server (SIGKILL) with everything under way; what was committed stays.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts a stopped server again and waits until it lets connections in.
    ///
    /// # Panics
    /// If it does not come back.
    pub async fn resume(&mut self) {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match self.launch().await {
                Ok(()) => return,
                // Processes of the server that was killed still end, and hold its memory.
                Err(error) => assert!(Instant::now() < deadline, "Postgres did not come back: {error:#}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn make_folder(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        give_to_server(&self.folder)
    }

    /// With `standby.signal` and where the primary is (`-R`).
    fn copy_of(&self, primary: u16) -> anyhow::Result<()> {
        self.make_folder()?;
        let mut copy = as_server(&programs()?.join("pg_basebackup"))?;
        copy.env("PGPASSWORD", &self.password).env_remove("PGHOST").current_dir(&self.folder);
        copy.args(["-h", "127.0.0.1", "-p", &primary.to_string(), "-U", SUPERUSER, "-R", "--no-sync"]);
        run(copy.args(["--checkpoint=fast", "--wal-method=stream", "-D"]).arg(self.folder.join("data")))
    }

    fn create(&self) -> anyhow::Result<()> {
        self.make_folder()?;
        let password = self.folder.join("password");
        std::fs::write(&password, &self.password)?;
        let mut initdb = as_server(&programs()?.join("initdb"))?;
        initdb.arg("-D").arg(self.folder.join("data")).args(["-U", SUPERUSER, "--auth=scram-sha-256"]);
        initdb.arg(format!("--pwfile={}", password.display()));
        initdb.args(["--no-locale", "-E", "UTF8", "--no-sync", "--no-instructions"]);
        run(initdb.current_dir(&self.folder))?;
        std::fs::remove_file(password).context("removing the password file")
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        // Left by a server that was killed. Postgres would recognise that, but not while its corpse is not collected.
        std::fs::remove_file(self.folder.join("data/postmaster.pid")).ok();
        let server = as_server(&programs()?.join("postgres"))?;
        let (program, data) = (server.get_program().to_owned(), self.folder.join("data"));
        let configure = |command: &mut Command| {
            command.args(server.get_args()).env_remove("PGHOST").current_dir(&data);
            command.arg("-D").arg(&data).args(["-p", &self.port.to_string()]);
            for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=300"] {
                command.args(["-c", setting]);
            }
        };
        let process = Process::start(Path::new(&program), configure, &self.log)?;
        let process = self.process.insert(process);

        let url = format!("postgres://{SUPERUSER}:{}@127.0.0.1:{}/postgres", self.password, self.port);
        let deadline = Instant::now() + READY_WITHIN;
        while !matches!(timeout(CONNECT_TIMEOUT, AsyncPgConnection::establish(&url)).await, Ok(Ok(_))) {
            if let Some(status) = process.exit_status()? {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                anyhow::bail!("postgres on port {} ended ({status}): {log}", self.port);
            }
            ensure!(Instant::now() < deadline, "postgres on port {} is not ready", self.port);
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.stop();
        std::fs::remove_dir_all(&self.folder).ok(); // Goes away with the run's folder otherwise.
    }
}

/// The folder of the newest installed Postgres' programs.
fn programs() -> anyhow::Result<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed")?;
    let newest = installed.flatten().map(|entry| entry.path().join("bin")).max();
    newest.context("PostgreSQL is not installed")
}

/// Lets the user of [`as_server`] write there.
pub(crate) fn give_to_server(folder: &Path) -> anyhow::Result<()> {
    if is_root()? {
        run(Command::new("chown").args(["-R", "postgres:postgres"]).arg(folder))?;
    }
    Ok(())
}

/// `program` as a user that Postgres accepts: as root, through setpriv, which replaces itself.
pub(crate) fn as_server(program: &Path) -> anyhow::Result<Command> {
    if !is_root()? {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(UNPRIVILEGED).arg(program);
    Ok(command)
}

fn is_root() -> anyhow::Result<bool> {
    let answer = Command::new("id").arg("-u").output().context("asking who runs this")?;
    Ok(answer.stdout.trim_ascii() == b"0")
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
