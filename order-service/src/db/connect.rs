//! Opens connections to Postgres that notice when it does not answer.

use std::time::Duration;

use common::attentive::{Attentive, Tail};
use diesel::{ConnectionError, ConnectionResult};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_postgres::config::Host;
use tokio_postgres::{Config, NoTls};

const DEFAULT_PORT: u16 = 5432;

/// A connection that is given up when the server leaves a question unanswered for longer than `patience`.
///
/// # Errors
/// There is no server at any of the hosts, or it refuses.
pub(super) async fn connect(url: &str, patience: Duration) -> ConnectionResult<AsyncPgConnection> {
    let config: Config = url.parse().map_err(bad)?;
    let mut failure = ConnectionError::BadConnection("no host is named".to_owned());
    for (index, host) in config.get_hosts().iter().enumerate() {
        // A socket in the file system is on this machine.
        let Host::Tcp(host) = host else { return AsyncPgConnection::establish(url).await };
        let ports = config.get_ports();
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(DEFAULT_PORT);
        match open(&config, (host, port), patience).await {
            Ok(connection) => return Ok(connection),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn open(
    config: &Config,
    address: (&str, u16),
    patience: Duration,
) -> ConnectionResult<AsyncPgConnection> {
    let stream = TcpStream::connect(address).await.map_err(bad)?;
    stream.set_nodelay(true).map_err(bad)?;
    let stream = Attentive::new(stream, patience, is_ready_for_query);
    let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(bad)?;
    // It ends with the client, or with the connection, of which the client then knows.
    Handle::current().spawn(connection);
    AsyncPgConnection::try_from(client).await
}

/// The last message of every answer: the type, the length, and the state of the transaction.
fn is_ready_for_query(tail: &Tail) -> bool {
    matches!(tail, [b'Z', 0, 0, 0, 5, _])
}

fn bad(error: impl std::error::Error) -> ConnectionError {
    ConnectionError::BadConnection(error.to_string())
}
