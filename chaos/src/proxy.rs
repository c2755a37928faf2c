//! A TCP proxy on loopback that stands between a service and its neighbour or store and can be told to misbehave.
//!
//! The address stays for the life of the proxy; what happens to the bytes is switched while it runs, also for
//! connections that are open already. A connection that has lost bytes is never healed: it is reset, as a stream with a
//! hole in it would be something that TCP never delivers.

mod link;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use self::link::Link;

/// Most time to reach the target; a loopback target answers at once or is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections open at a time; one more waits in the listener's queue.
const CONNECTIONS_MAX: usize = 4_096;
/// Pause after the listener failed, which happens when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a proxy does to the bytes that pass it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Mode {
    /// Nothing.
    Pass,
    /// Each piece waits before it goes on, in both directions: `fixed_ms`, and up to `jitter_ms` by chance.
    Delay {
        /// Milliseconds that every piece waits.
        fixed_ms: u64,
        /// Most milliseconds on top, drawn for each piece.
        jitter_ms: u64,
    },
    /// Every connection is reset, and new ones are as soon as they open.
    Cut,
    /// Connections open and stay open, but nothing arrives any more, in either direction.
    HalfOpen,
    /// Requests go through; the first answer is swallowed and the connection reset.
    LoseReplies,
    /// As [`Mode::LoseReplies`], but only from the first request on that contains this text.
    LoseReplyTo {
        /// What to look for in the bytes of a request, as long as it is not split over two pieces.
        text: String,
    },
    /// Each connection is reset after so many further bytes, both directions together, in the middle of whatever it is.
    CutAfter {
        /// Bytes that still go through on each connection.
        bytes: u64,
    },
}

impl Mode {
    /// A short name for counting, without parameters.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Pass => "network_pass",
            Self::Delay { .. } => "network_delay",
            Self::Cut => "network_cut",
            Self::HalfOpen => "network_half_open",
            Self::LoseReplies => "network_lost_reply",
            Self::LoseReplyTo { .. } => "network_lost_commit_reply",
            Self::CutAfter { .. } => "network_cut_in_the_middle",
        }
    }
}

/// What connections look at while they live.
#[derive(Debug, Clone)]
struct Setting {
    mode: Mode,
    target: SocketAddr,
    /// Connections that were opened under an older number are reset.
    generation: u64,
}

/// What a proxy has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections reset by the proxy.
    pub reset: u64,
    /// Answers swallowed, in pieces.
    pub swallowed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    open: AtomicUsize,
    accepted: AtomicU64,
    reset: AtomicU64,
    swallowed: AtomicU64,
}

/// A running proxy; closes its port and resets its connections when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    setting: watch::Sender<Setting>,
    counters: Arc<Counters>,
    acceptor: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free loopback port and passes everything on to `target`.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (setting, watched) = watch::channel(Setting { mode: Mode::Pass, target, generation: 0 });
        let counters = Arc::<Counters>::default();
        let acceptor = tokio::spawn(accept(listener, watched, counters.clone()));
        Ok(Self { address, setting, counters, acceptor })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Switches the mode, for open connections too.
    pub fn set(&self, mode: Mode) {
        self.setting.send_modify(|setting| setting.mode = mode);
    }

    /// What it does at present.
    pub fn mode(&self) -> Mode {
        self.setting.borrow().mode.clone()
    }

    /// Sends new connections elsewhere and resets the open ones: a fail-over.
    pub fn retarget(&self, target: SocketAddr) {
        self.setting.send_modify(|setting| {
            setting.target = target;
            setting.generation += 1;
        });
    }

    /// Resets every open connection once; new ones are let in.
    pub fn reset_connections(&self) {
        self.setting.send_modify(|setting| setting.generation += 1);
    }

    /// Connections open at this moment.
    pub fn open_connections(&self) -> usize {
        self.counters.open.load(Ordering::Relaxed)
    }

    /// What it has seen so far.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            accepted: self.counters.accepted.load(Ordering::Relaxed),
            reset: self.counters.reset.load(Ordering::Relaxed),
            swallowed: self.counters.swallowed.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort(); // Its connections are in its JoinSet and go with it.
    }
}

async fn accept(listener: TcpListener, setting: watch::Receiver<Setting>, counters: Arc<Counters>) {
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((client, _)) => {
                counters.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(client, setting.clone(), counters.clone()));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Counts a connection as open while it lives, however it ends.
struct Open(Arc<Counters>);

impl Open {
    fn new(counters: Arc<Counters>) -> Self {
        counters.open.fetch_add(1, Ordering::Relaxed);
        Self(counters)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(client: TcpStream, setting: watch::Receiver<Setting>, counters: Arc<Counters>) {
    let _open = Open::new(counters.clone());
    let (mode, target) = {
        let setting = setting.borrow();
        (setting.mode.clone(), setting.target)
    };
    let server = match mode {
        Mode::Cut => None,
        // A peer that takes the connection and says nothing: the target never hears of it.
        Mode::HalfOpen => return link::hang(client, setting, &counters).await,
        Mode::Pass
        | Mode::Delay { .. }
        | Mode::LoseReplies
        | Mode::LoseReplyTo { .. }
        | Mode::CutAfter { .. } => {
            timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await.ok().and_then(Result::ok)
        }
    };
    match server {
        Some(server) => Link::new(setting, counters).run(client, server).await,
        None => link::reset(&client, &counters),
    }
}

#[cfg(test)]
mod tests;
