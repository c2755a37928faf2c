//! What each connection is held to: heads that come in time, answers that are read in time, and not too many of them.
//! And what it may cost while nothing happens: next to nothing.
//!
//! The HTTP library has a time limit for the first head of a connection only, and none for clients that do not read
//! what they asked for. It keeps two buffers of 8 KiB for each connection, and much else: with ten thousand of them that
//! is 200 MiB and more, nearly all of it for connections that wait. So, as in nginx, a connection is handed to the
//! library when something has come, and is taken back when all of it was answered; only so many stay there, for the
//! next request that comes soon.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::Protocol;
use actix_server::GracefulShutdownSignal;
use actix_service::{Service, ServiceFactory};
use actix_web::rt::net::TcpStream;
use futures_util::future::LocalBoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, Sleep};

use super::KEEP_ALIVE;
use super::answers;
use super::connections::{Connections, Permit};
use super::progress::{HEAD_TIMEOUT, Progress};
use super::stream::Guarded;

/// How long a refused connection is kept, so that the answer arrives.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(500);

/// Puts the guard before the HTTP service `inner`.
pub(super) struct Guard<S> {
    pub(super) inner: S,
    pub(super) connections: Connections,
    /// Says when idle connections are to end.
    pub(super) closing: GracefulShutdownSignal,
    /// Most idle connections of a worker that the library keeps.
    pub(super) kept_max: usize,
}

impl<S> ServiceFactory<TcpStream> for Guard<S>
where
    S: ServiceFactory<(Guarded, Protocol, Option<SocketAddr>), Config = (), Response = ()>,
    S::Service: 'static,
    S::Future: 'static,
    <S::Service as Service<(Guarded, Protocol, Option<SocketAddr>)>>::Future: 'static,
{
    type Response = ();
    type Error = S::Error;
    type Config = ();
    type Service = Door<S::Service>;
    type InitError = S::InitError;
    type Future = LocalBoxFuture<'static, Result<Self::Service, Self::InitError>>;

    fn new_service(&self, config: ()) -> Self::Future {
        let (inner, connections, closing) =
            (self.inner.new_service(config), self.connections.clone(), self.closing.clone());
        let kept_max = self.kept_max;
        Box::pin(async move {
            let worker = Worker { inner: inner.await?, closing, kept: Cell::new(0), kept_max };
            Ok(Door { worker: Rc::new(worker), connections })
        })
    }
}

/// The guard of one worker.
pub(super) struct Door<S> {
    worker: Rc<Worker<S>>,
    connections: Connections,
}

/// What the connections of one worker share.
struct Worker<S> {
    inner: S,
    closing: GracefulShutdownSignal,
    /// Idle connections that the library keeps.
    kept: Cell<usize>,
    kept_max: usize,
}

impl<S> Service<TcpStream> for Door<S>
where
    S: Service<(Guarded, Protocol, Option<SocketAddr>), Response = ()>,
    S::Future: 'static,
{
    type Response = ();
    type Error = S::Error;
    type Future = Watched<S, S::Future>;

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.worker.inner.poll_ready(context)
    }

    fn call(&self, stream: TcpStream) -> Self::Future {
        let peer = stream.peer_addr().ok();
        let address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let (work, permit) = match self.connections.enter(address) {
            Ok(permit) => {
                // Answers come in small pieces, which Nagle's algorithm would hold back for a delayed ACK. Fails only
                // on a connection that is gone.
                let _set = stream.set_nodelay(true);
                (Work::Waiting(self.worker.wait(stream, Instant::now() + HEAD_TIMEOUT)), Some(permit))
            }
            Err(full) => {
                metrics::counter!("http_connections_refused_total", "limit" => full.to_string()).increment(1);
                (Work::Refusing(Box::pin(refuse(stream, full.answer()))), None)
            }
        };
        Watched {
            work,
            worker: self.worker.clone(),
            peer,
            progress: Rc::default(),
            is_kept: false,
            timer: None,
            _permit: permit,
        }
    }
}

impl<S> Worker<S> {
    fn wait(&self, stream: TcpStream, until: Instant) -> Waiting {
        let closing = self.closing.clone();
        let closing = Box::pin(async move { closing.notified().await });
        Waiting { stream, closing, until }
    }

    /// Whether the library may keep one more idle connection.
    fn keep(&self) -> bool {
        let kept = self.kept.get();
        let has_room = kept < self.kept_max;
        self.kept.set(kept + usize::from(has_room));
        has_room
    }

    fn keep_no_more(&self) {
        self.kept.set(self.kept.get().saturating_sub(1));
    }
}

/// Says why, and waits a little for the other side to have heard it: a connection that is closed with something unread
/// is reset, and takes the answer with it.
async fn refuse(mut stream: TcpStream, answer: String) {
    let farewell = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // Either way it ends here.
    let _heard = tokio::time::timeout(REFUSAL_TIMEOUT, farewell).await;
}

/// A connection on which nothing happens.
struct Waiting {
    stream: TcpStream,
    closing: LocalBoxFuture<'static, ()>,
    /// When there is no point in waiting any longer.
    until: Instant,
}

/// What is done with a connection.
enum Work<F> {
    Waiting(Waiting),
    Serving(Pin<Box<F>>),
    Refusing(LocalBoxFuture<'static, ()>),
    Over,
}

/// Serves one connection until it ends, or has to.
pub(super) struct Watched<S, F> {
    work: Work<F>,
    worker: Rc<Worker<S>>,
    peer: Option<SocketAddr>,
    progress: Rc<Progress>,
    /// Whether it is idle, and is one of those that the library keeps.
    is_kept: bool,
    timer: Option<Pin<Box<Sleep>>>,
    /// Held until the connection ends.
    _permit: Option<Permit>,
}

impl<S> Watched<S, S::Future>
where
    S: Service<(Guarded, Protocol, Option<SocketAddr>), Response = ()>,
{
    /// Waits for something to come. Ready: it is over, or is to be polled again.
    fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Work::Waiting(waiting) = &mut self.work else { return Poll::Ready(()) };
        if waiting.stream.poll_read_ready(context).is_ready() {
            if let Work::Waiting(Waiting { stream, .. }) = std::mem::replace(&mut self.work, Work::Over) {
                let guarded = Guarded::new(stream, self.progress.clone());
                let serving = self.worker.inner.call((guarded, Protocol::Http1, self.peer));
                self.work = Work::Serving(Box::pin(serving));
                self.timer = None;
            }
            return Poll::Ready(());
        }
        if waiting.closing.as_mut().poll(context).is_ready() {
            self.work = Work::Over;
            return Poll::Ready(());
        }
        let until = waiting.until;
        ready!(poll_timer(&mut self.timer, until, context));
        if let Work::Waiting(Waiting { stream, .. }) = std::mem::replace(&mut self.work, Work::Over)
            && self.progress.is_new()
        {
            metrics::counter!("http_connections_timed_out_total").increment(1);
            self.work = Work::Refusing(Box::pin(refuse(stream, answers::too_slow())));
        }
        Poll::Ready(())
    }

    /// Serves, and takes an idle connection back. Ready without a result: it is to be polled again.
    fn poll_serving(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<(), S::Error>>> {
        let Work::Serving(serving) = &mut self.work else { return Poll::Ready(None) };
        if let Poll::Ready(ended) = serving.as_mut().poll(context) {
            return Poll::Ready(Some(ended));
        }
        let is_idle = self.progress.is_idle();
        if self.is_kept && !is_idle {
            self.is_kept = false;
            self.worker.keep_no_more();
        }
        if is_idle && !self.is_kept {
            self.is_kept = !self.progress.is_new() && self.worker.keep();
            if !self.is_kept {
                return self.take_back();
            }
        }
        let Some(deadline) = self.progress.deadline() else {
            self.timer = None;
            return Poll::Pending;
        };
        ready!(poll_timer(&mut self.timer, deadline, context));
        metrics::counter!("http_connections_timed_out_total").increment(1);
        self.work = Work::Over; // Closes the connection.
        Poll::Ready(None)
    }

    fn take_back<T>(&mut self) -> Poll<Option<T>> {
        let timeout = if self.progress.is_new() { HEAD_TIMEOUT } else { KEEP_ALIVE };
        let work = &mut self.work;
        let stream = self.progress.take_back(|| *work = Work::Over);
        if let Some(stream) = stream {
            self.work = Work::Waiting(self.worker.wait(stream, Instant::now() + timeout));
            self.timer = None;
        }
        Poll::Ready(None)
    }
}

impl<S, F> Drop for Watched<S, F> {
    fn drop(&mut self) {
        if self.is_kept {
            self.worker.keep_no_more();
        }
    }
}

impl<S> Future for Watched<S, S::Future>
where
    S: Service<(Guarded, Protocol, Option<SocketAddr>), Response = ()>,
{
    type Output = Result<(), S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            match &mut this.work {
                Work::Waiting(_) => ready!(this.poll_waiting(context)),
                Work::Serving(_) => {
                    if let Some(ended) = ready!(this.poll_serving(context)) {
                        return Poll::Ready(ended);
                    }
                }
                Work::Refusing(refusal) => return refusal.as_mut().poll(context).map(Ok),
                Work::Over => return Poll::Ready(Ok(())),
            }
        }
    }
}

fn poll_timer(timer: &mut Option<Pin<Box<Sleep>>>, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
    if timer.deadline() != deadline {
        timer.as_mut().reset(deadline);
    }
    timer.as_mut().poll(context)
}
