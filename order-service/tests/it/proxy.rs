//! A way to the database that loses what the test wants to be lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// How a commit as the client sends it.
const COMMIT: &[u8] = b"COMMIT\0";
/// No limit.
const ALWAYS: i32 = i32::MAX;

/// Passes bytes on to a server.
pub struct Proxy {
    pub address: SocketAddr,
    /// So many commits reach the server and their answers do not come back.
    commits_to_lose: Arc<AtomicI32>,
    /// While above 0 nothing that the server says comes back, on connections that stay open.
    mute: Arc<AtomicI32>,
    /// For so many milliseconds nothing passes on a new connection.
    slow_ms: Arc<AtomicU64>,
}

impl Proxy {
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (commits_to_lose, mute, slow_ms) = (Arc::default(), Arc::default(), Arc::default());
        let proxy = Self { address, commits_to_lose, mute, slow_ms };
        let (commits_to_lose, mute) = (proxy.commits_to_lose.clone(), proxy.mute.clone());
        let slow_ms = proxy.slow_ms.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { continue };
                let passing = pass(client, server, commits_to_lose.clone(), mute.clone());
                let held_up = Duration::from_millis(slow_ms.load(Ordering::SeqCst));
                tokio::spawn(async move {
                    sleep(held_up).await;
                    passing.await;
                });
            }
        });
        proxy
    }

    /// The answers to the next so many commits are lost, with their connections.
    pub fn lose_commits(&self, count: i32) {
        self.commits_to_lose.store(count, Ordering::SeqCst);
    }

    /// How many of them have not been lost yet.
    pub fn to_lose(&self) -> i32 {
        self.commits_to_lose.load(Ordering::SeqCst).max(0)
    }

    /// From now on, how long nothing passes on each new connection.
    pub fn be_slow_to_connect(&self, slow: Duration) {
        self.slow_ms.store(u64::try_from(slow.as_millis()).expect("some milliseconds"), Ordering::SeqCst);
    }

    /// From now on, whether what the server says is swallowed.
    pub fn mute(&self, mute: bool) {
        self.mute.store(if mute { ALWAYS } else { 0 }, Ordering::SeqCst);
    }
}

async fn pass(client: TcpStream, server: TcpStream, to_lose: Arc<AtomicI32>, mute: Arc<AtomicI32>) {
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(copy(from_server, to_client, mute));
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
        let bytes = &buffer[..read];
        let is_commit = bytes.windows(COMMIT.len()).any(|window| window == COMMIT);
        if is_commit && to_lose.fetch_sub(1, Ordering::SeqCst) > 0 {
            // First nobody hears the answer, then the server hears the commit.
            back.abort();
            let _dead = back.await;
            to_server.write_all(bytes).await.ok();
            // The server has done it before it sees the connection end: it reads in order.
            to_server.shutdown().await.ok();
            return;
        }
        if to_server.write_all(bytes).await.is_err() {
            return;
        }
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mute: Arc<AtomicI32>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if mute.load(Ordering::SeqCst) == 0 && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
