//! What a service's binary is asked to do: to serve, to say whether it is healthy, or a command of the service's own.
//!
//! `--health` is for images without a shell or curl: it asks the process that runs beside it, at the same settings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::settings::HttpSettings;

/// Most time for the whole question of `--health`.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);
/// Where the status is in `HTTP/1.1 200 …`.
const STATUS_BYTES: std::ops::Range<usize> = 9..12;
/// Bytes of an answer that are read: the status line.
const ANSWER_BYTES: usize = 12;

/// What the process is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// No argument: serve.
    Serve,
    /// `--health`: ask the process that serves here whether it is ready, and end with the answer.
    Health,
    /// A command of the service's own, once, and end.
    Once(&'static str),
}

impl Command {
    /// The command in the arguments of this process; `own` are the service's own commands.
    ///
    /// # Errors
    /// It is none of them, or there is more than one; the message lists them.
    pub fn from_arguments(own: &[&'static str]) -> anyhow::Result<Self> {
        Self::parse(own, std::env::args().skip(1))
    }

    fn parse(own: &[&'static str], mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let Some(first) = arguments.next() else { return Ok(Self::Serve) };
        let command = match first.as_str() {
            "--health" => Some(Self::Health),
            other => own.iter().find(|name| **name == other).map(|name| Self::Once(name)),
        };
        match (command, arguments.next()) {
            (Some(command), None) => Ok(command),
            (_, _) => bail!(
                "expected no argument (to serve), or one of: --health{}",
                own.iter().map(|name| format!(", {name}")).collect::<String>()
            ),
        }
    }
}

/// Whether the process that listens as `http` says is ready to serve.
///
/// # Errors
/// It is not, or does not answer in time.
pub async fn health(http: &HttpSettings) -> anyhow::Result<()> {
    let address = SocketAddr::new(reachable(http.host), http.port);
    let asking = async {
        let mut connection = TcpStream::connect(address).await?;
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        let mut answer = [0; ANSWER_BYTES];
        connection.read_exact(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer[STATUS_BYTES]).into_owned())
    };
    let answer = tokio::time::timeout(HEALTH_TIMEOUT, asking).await.context("no answer in time")?;
    let status = answer.with_context(|| format!("asking {address}"))?;
    if status != "200" {
        bail!("not ready: {address} answers {status}");
    }
    Ok(())
}

/// Where a process that listens at `host` is reached from beside it.
fn reachable(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(_) | IpAddr::V6(_) => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> anyhow::Result<Command> {
        Command::parse(&["migrate"], arguments.iter().map(|argument| (*argument).to_owned()))
    }

    #[test]
    fn without_an_argument_it_serves() {
        assert_eq!(parse(&[]).unwrap(), Command::Serve);
        assert_eq!(parse(&["--health"]).unwrap(), Command::Health);
        assert_eq!(parse(&["migrate"]).unwrap(), Command::Once("migrate"));
    }

    /// A misspelt command must not start a second server.
    #[test]
    fn what_is_no_command_is_refused_and_the_commands_are_listed() {
        for arguments in [&["migrat"][..], &["--help"], &["migrate", "now"], &["", "migrate"]] {
            let error = parse(arguments).unwrap_err().to_string();
            assert!(error.contains("--health, migrate"), "{error}");
        }
    }

    #[test]
    fn a_process_that_listens_everywhere_is_asked_at_loopback() {
        for (host, asked) in [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.7", "10.0.0.7")] {
            assert_eq!(reachable(host.parse().unwrap()), asked.parse::<IpAddr>().unwrap());
        }
    }
}
