//! A server that answers when it is told to, and plans to send to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::ids::{ItemId, SaleId};
use load::engine::{Engine, Pace, Plan, Step};
use load::record::{Recorder, Totals};
use load::requests::{Mix, Requests};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use uuid::Uuid;

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}";

/// Accepts every order, as long as it is not stalled.
pub struct Shop {
    pub address: SocketAddr,
    pub stalled: watch::Sender<bool>,
    pub connections: Arc<AtomicUsize>,
}

impl Shop {
    /// `answers_max`: it closes a connection after so many answers without saying so.
    pub async fn open(stalled: bool, answers_max: usize) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (stalled, stall) = watch::channel(stalled);
        let connections = Arc::<AtomicUsize>::default();
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, stall.clone(), answers_max));
            }
        });
        Self { address, stalled, connections }
    }
}

async fn serve(mut stream: TcpStream, mut stall: watch::Receiver<bool>, answers_max: usize) -> Option<()> {
    let mut bytes = vec![0; 4096];
    for _ in 0..answers_max {
        let mut read = 0;
        // The body of every order ends so.
        while !bytes[..read].ends_with(b"}") {
            match stream.read(&mut bytes[read..]).await {
                Ok(1..) if read < bytes.len() => read = bytes[..].iter().position(|byte| *byte == b'}')? + 1,
                _ => return None,
            }
        }
        bytes.fill(0);
        stall.wait_for(|stalled| !*stalled).await.ok()?;
        stream.write_all(ACCEPTED).await.ok()?;
    }
    Some(())
}

/// Orders to this address.
pub fn plan(address: SocketAddr, in_flight_max: usize, threads: usize) -> Arc<Plan> {
    let id = Uuid::from_u128(7);
    let requests = Requests {
        mix: Mix::Buyers,
        host: address.to_string(),
        sale: SaleId(id),
        item: ItemId(id),
        sold_out: ItemId(id),
        tokens: Arc::new(vec!["token".to_owned()]),
        run: "run".to_owned(),
        turn: AtomicU64::new(0),
    };
    Arc::new(Plan { gateways: vec![address], requests, in_flight_max, threads, connections_ready: 0 })
}

/// One step from now on.
pub fn step(pace: Pace, hold: Duration) -> Step {
    let begin = Instant::now();
    Step { pace, begin, hold, recorder: Arc::new(Recorder::new(begin + hold).expect("a recorder")) }
}

/// Waits until `holds`.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the engine has done everything.
pub async fn end(engine: Engine, step: &Step) -> Totals {
    until("every request has come to something", || engine.is_finished()).await;
    engine.join().expect("the threads did their work");
    step.recorder.totals().expect("totals")
}
