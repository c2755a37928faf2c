//! The socket under a connection, held so that it can be cut.
//!
//! lapin's thread waits for a broker that accepts a connection and then says nothing, for as long as that takes, even
//! when nobody waits for it any more: during a long hang each attempt would leave a thread and a socket behind.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use lapin::tcp::{AsyncTcpStream, TLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};
use tokio::net::lookup_host;
use tokio::time::timeout;

/// Cuts its connection when dropped.
#[derive(Default)]
pub(super) struct Lifeline(Arc<Line>);

/// What the lifeline and lapin's thread have in common.
#[derive(Default)]
struct Line(Mutex<Held>);

#[derive(Default)]
struct Held {
    cut: bool,
    socket: Option<TcpStream>,
}

impl Line {
    /// Keeps a second handle of `socket`; an error once the line is cut.
    fn hold(&self, socket: &impl AsFd) -> std::io::Result<()> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.cut {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        held.socket = Some(socket.as_fd().try_clone_to_owned()?.into());
        Ok(())
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        let mut held = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.cut = true;
        if let Some(socket) = held.socket.take() {
            // Fails where the other side was faster.
            let _closed_already = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Connects within `limit`; the connection lives no longer than the lifeline.
pub(super) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    limit: Duration,
) -> anyhow::Result<(Connection, Lifeline)> {
    let lifeline = Lifeline::default();
    let line = lifeline.0.clone();
    let runtime = lapin::runtime::default_runtime()?;
    let reactor = runtime.clone();
    let dial = async move |uri: AMQPUri, _| {
        let dialled = timeout(limit, async {
            let addresses = lookup_host((uri.authority.host.as_str(), uri.authority.port)).await?;
            let addresses: Vec<_> = addresses.collect();
            let stream = AsyncTcpStream::connect(&reactor, addresses.as_slice()).await?;
            if let AsyncTcpStream::Plain(plain) = &stream {
                line.hold(plain.get_ref())?;
            }
            match uri.scheme {
                AMQPScheme::AMQP => Ok(stream),
                AMQPScheme::AMQPS => stream.into_tls(&uri.authority.host, TLSConfig::default()).await,
            }
        });
        dialled.await.map_err(std::io::Error::from).flatten().map_err(lapin::Error::from)
    };
    let connecting = Connection::connector(uri, runtime, dial, properties);
    let connection = timeout(limit, connecting).await.context("connecting took too long")?;
    Ok((connection.context("connecting")?, lifeline))
}
