//! One connection through a proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

use super::{Counters, Mode, Setting};

/// Bytes that are read at once.
const PIECE_BYTES: usize = 16 * 1024;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

/// What happens to one piece.
enum Fate {
    Forward,
    /// Only so many of its bytes, then the connection is reset.
    ForwardThenReset(usize),
    Swallow,
    Reset,
}

/// The connection has to be reset.
struct Broken;

/// The state of one connection.
pub(super) struct Link {
    setting: watch::Receiver<Setting>,
    counters: Arc<Counters>,
    generation: u64,
    /// Bytes were lost: this connection must not be used again.
    holed: AtomicBool,
    /// The request whose answer is to be lost has gone through.
    asked: AtomicBool,
    /// Bytes that have gone through since the mode was set that counts them.
    counted: AtomicU64,
}

impl Link {
    pub(super) fn new(setting: watch::Receiver<Setting>, counters: Arc<Counters>) -> Self {
        let generation = setting.borrow().generation;
        Self {
            setting,
            counters,
            generation,
            holed: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            counted: AtomicU64::new(0),
        }
    }

    pub(super) async fn run(self, mut client: TcpStream, mut server: TcpStream) {
        client.set_nodelay(true).ok();
        server.set_nodelay(true).ok();
        let end = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let both = async {
                tokio::try_join!(
                    self.pump(from_client, to_server, Way::ToServer),
                    self.pump(from_server, to_client, Way::ToClient),
                )
            };
            tokio::select! {
                ended = both => ended.map(drop),
                () = self.doomed() => Err(Broken),
            }
        };
        if end.is_err() {
            reset(&client, &self.counters);
            server.set_zero_linger().ok();
        }
    }

    /// Waits until the setting says that this connection has no future.
    async fn doomed(&self) {
        let mut setting = self.setting.clone();
        loop {
            let doomed = {
                let now = setting.borrow_and_update();
                if !matches!(now.mode, Mode::CutAfter { .. }) {
                    self.counted.store(0, Ordering::Relaxed);
                }
                let healed = self.holed.load(Ordering::Relaxed) && now.mode != Mode::HalfOpen;
                now.mode == Mode::Cut || now.generation != self.generation || healed
            };
            // An error means that the proxy is gone.
            if doomed || setting.changed().await.is_err() {
                return;
            }
        }
    }

    /// Moves bytes one way until their source is closed, which is passed on: the other way may go on.
    async fn pump(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, way: Way) -> Result<(), Broken> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = from.read(&mut piece).await.map_err(|_| Broken)?;
            if length == 0 {
                to.shutdown().await.ok();
                return Ok(());
            }
            let bytes = &piece[..length];
            if let Some(pause) = self.pause() {
                tokio::time::sleep(pause).await;
            }
            match self.fate(way, bytes) {
                Fate::Forward => to.write_all(bytes).await.map_err(|_| Broken)?,
                Fate::ForwardThenReset(count) => {
                    to.write_all(&bytes[..count]).await.ok();
                    return Err(Broken);
                }
                Fate::Swallow => self.holed.store(true, Ordering::Relaxed),
                Fate::Reset => return Err(Broken),
            }
        }
    }

    fn pause(&self) -> Option<Duration> {
        match self.setting.borrow().mode {
            Mode::Delay { fixed_ms, jitter_ms } => {
                let jitter_ms = rand::rng().random_range(0..=jitter_ms);
                Some(Duration::from_millis(fixed_ms + jitter_ms))
            }
            Mode::Pass
            | Mode::Cut
            | Mode::HalfOpen
            | Mode::LoseReplies
            | Mode::LoseReplyTo { .. }
            | Mode::CutAfter { .. } => None,
        }
    }

    fn fate(&self, way: Way, bytes: &[u8]) -> Fate {
        match (&self.setting.borrow().mode, way) {
            (Mode::Pass | Mode::Delay { .. }, _) | (Mode::LoseReplies, Way::ToServer) => Fate::Forward,
            (Mode::Cut, _) => Fate::Reset,
            (Mode::HalfOpen, _) => Fate::Swallow,
            (Mode::LoseReplies, Way::ToClient) => self.lose(),
            (Mode::LoseReplyTo { text }, Way::ToServer) => {
                if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                    self.asked.store(true, Ordering::SeqCst);
                }
                Fate::Forward
            }
            (Mode::LoseReplyTo { .. }, Way::ToClient) => {
                if self.asked.load(Ordering::SeqCst) {
                    self.lose()
                } else {
                    Fate::Forward
                }
            }
            (Mode::CutAfter { bytes: budget }, _) => self.spend(*budget, bytes.len()),
        }
    }

    fn lose(&self) -> Fate {
        self.counters.swallowed.fetch_add(1, Ordering::Relaxed);
        Fate::Reset
    }

    fn spend(&self, budget: u64, length: usize) -> Fate {
        let length_u64 = u64::try_from(length).unwrap_or(u64::MAX);
        let before = self.counted.fetch_add(length_u64, Ordering::Relaxed);
        let left = budget.saturating_sub(before);
        if left >= length_u64 {
            Fate::Forward
        } else {
            Fate::ForwardThenReset(usize::try_from(left).unwrap_or(length))
        }
    }
}

/// Takes what the client says and answers nothing, until the mode is another one.
pub(super) async fn hang(client: TcpStream, mut setting: watch::Receiver<Setting>, counters: &Counters) {
    let mut client = client;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        tokio::select! {
            read = client.read(&mut piece) => {
                if matches!(read, Ok(0) | Err(_)) {
                    return;
                }
            }
            changed = setting.changed() => {
                if changed.is_err() || setting.borrow().mode != Mode::HalfOpen {
                    return reset(&client, counters);
                }
            }
        }
    }
}

/// Makes the connection end with a reset when it is dropped, instead of a clean close.
pub(super) fn reset(client: &TcpStream, counters: &Counters) {
    counters.reset.fetch_add(1, Ordering::Relaxed);
    client.set_zero_linger().ok();
}
