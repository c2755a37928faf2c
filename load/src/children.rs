//! Servers of the benchmark, which end with it.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

/// How long a server may take to listen.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// This program again, as a server that prints its port.
    ///
    /// # Errors
    /// It does not start.
    pub fn of_this_program(arguments: &[&str]) -> anyhow::Result<Self> {
        Self::of(&std::env::current_exe()?.to_string_lossy(), arguments)
    }

    /// A program that prints its port when it listens.
    ///
    /// # Errors
    /// It does not start.
    pub fn of(program: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        let process = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut server = Self { process, address: ([127, 0, 0, 1], 0).into() };
        let output = server.process.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let port: u16 = line.trim().parse().with_context(|| format!("{arguments:?} did not start"))?;
        server.address.set_port(port);
        Ok(server)
    }

    /// A Redis that keeps nothing, with its log in `folder`.
    ///
    /// # Errors
    /// It does not start.
    pub fn redis(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        // Free now; whoever takes it meanwhile makes the start fail, and the next one works.
        let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
        command
            .args(["--save", "", "--appendonly", "no", "--logfile", "classic-redis.log"])
            .arg("--dir")
            .arg(folder);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir(folder);
        let process = command.spawn().context("starting redis-server")?;
        let server = Self { process, address };
        let deadline = std::time::Instant::now() + READY_WITHIN;
        while std::net::TcpStream::connect(address).is_err() {
            anyhow::ensure!(std::time::Instant::now() < deadline, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
