//! A private pgbouncer in front of a database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::postgres::{as_server, give_to_server};
use crate::process::Process;
use crate::{Database, environment, port};

const PROGRAM: &str = "/usr/sbin/pgbouncer";
const READY_WITHIN: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Connections to the server: in session mode as many as clients have.
const POOL_SIZE: u32 = 60;

/// A pooler in session mode: a client has a connection of the server to itself until it leaves.
#[derive(Debug)]
pub struct Pgbouncer {
    folder: PathBuf,
    url: String,
    _process: Process,
}

impl Pgbouncer {
    /// Starts one in front of `database`.
    ///
    /// # Panics
    /// If it cannot be started, or outside `./dev test`.
    pub async fn start(database: &Database) -> Self {
        let folder = environment::directory().join(format!("pgbouncer-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&folder).expect("a folder for pgbouncer");
        let (port, file) = (port::free(), folder.join("pgbouncer.ini"));
        let mut url = reqwest::Url::parse(&database.url()).expect("an address");
        let settings = format!(
            "[databases]\n* = host={} port={} user={} password={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = session\n\
             default_pool_size = {POOL_SIZE}\nmax_client_conn = 200\nserver_reset_query = DISCARD ALL\n",
            url.host_str().expect("a host"),
            url.port().expect("a port"),
            url.username(),
            url.password().expect("a password"),
        );
        std::fs::write(&file, settings).expect("the settings of pgbouncer");
        give_to_server(&folder).expect("the folder is the package's user's");
        let command = as_server(Path::new(PROGRAM)).expect("a command");
        let process = Process::start(
            Path::new(command.get_program()),
            |started| {
                started.args(command.get_args()).arg(&file).current_dir(&folder);
            },
            &environment::directory().join(format!("pgbouncer-{port}.log")),
        );
        let process = process.expect("pgbouncer starts");
        let deadline = Instant::now() + READY_WITHIN;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(Instant::now() < deadline, "pgbouncer on port {port} is not ready");
            sleep(POLL_INTERVAL).await;
        }
        url.set_host(Some("127.0.0.1")).expect("an address has room for a host");
        url.set_port(Some(port)).expect("an address has room for a port");
        Self { folder, url: url.into(), _process: process }
    }

    /// Where the database is, through the pooler.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok(); // Goes away with the run's folder otherwise.
    }
}
