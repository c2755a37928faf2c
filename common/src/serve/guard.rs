//! What each connection is held to: heads that come in time, answers that are read in time, and not too many of them.
//!
//! The HTTP library has a time limit for the first head of a connection only, and none for clients that do not read
//! what they asked for.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::Protocol;
use actix_service::{Service, ServiceFactory};
use actix_web::rt::net::TcpStream;
use futures_util::future::LocalBoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::answers::instead_of;
use super::connections::{Connections, Permit};

/// Most time for a client to send the head of a request once it has begun.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Most time without a client taking a byte of what it is sent.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection is kept that was to end, so that its last answer arrives.
const SURPLUS_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a refused connection is kept, so that the answer arrives.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(500);

/// What is known of one connection; shared by its stream, its watch and its requests.
#[derive(Default)]
pub(super) struct Progress {
    /// Requests that a handler is at work on.
    answering: Cell<usize>,
    /// When the head of the next request began to come.
    head_began: Cell<Option<Instant>>,
    /// Since when nothing that was to be sent could be.
    stalled: Cell<Option<Instant>>,
    /// Whether an answer has said that the connection ends with it.
    last_answered: Cell<bool>,
    /// When there was a request nevertheless.
    surplus: Cell<Option<Instant>>,
}

impl Progress {
    /// The head of a request is there; until the result is dropped, a handler is at work.
    pub(super) fn answering(self: &Rc<Self>) -> Answering {
        self.head_began.set(None);
        self.answering.set(self.answering.get() + 1);
        Answering(self.clone())
    }

    /// What comes after this answer is no request any more.
    pub(super) fn last_answered(&self) {
        self.last_answered.set(true);
    }

    /// Never comes back where the connection was to end before this request: the library would answer what it had
    /// read already, even after a request whose end was not certain.
    pub(super) async fn no_surplus(&self) {
        if self.last_answered.get() {
            self.surplus.set(Some(Instant::now()));
            std::future::pending().await
        }
    }

    /// When the connection is to be closed, if nothing happens before.
    fn deadline(&self) -> Option<Instant> {
        let head =
            self.head_began.get().filter(|_| self.answering.get() == 0).map(|began| began + HEAD_TIMEOUT);
        let stall = self.stalled.get().map(|since| since + STALL_TIMEOUT);
        let surplus = self.surplus.get().map(|since| since + SURPLUS_TIMEOUT);
        [head, stall, surplus].into_iter().flatten().min()
    }
}

/// A handler is at work.
pub(super) struct Answering(Rc<Progress>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.set(self.0.answering.get().saturating_sub(1));
    }
}

/// A connection that notes its progress.
pub(super) struct Guarded {
    stream: TcpStream,
    progress: Rc<Progress>,
    /// An answer that goes out instead of the library's, and how much of it has.
    instead: RefCell<Option<(String, usize)>>,
}

impl Guarded {
    pub(super) fn progress(&self) -> Rc<Progress> {
        self.progress.clone()
    }

    fn note_write<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.progress.stalled.set(None);
        } else if self.progress.stalled.get().is_none() {
            self.progress.stalled.set(Some(Instant::now()));
        }
        result
    }

    /// Sends the rest of what goes out instead of the library's answer.
    fn poll_instead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut instead = self.instead.borrow_mut();
        while let Some((text, sent)) = instead.as_mut() {
            let Some(rest) = text.as_bytes().get(*sent..).filter(|rest| !rest.is_empty()) else {
                *instead = None;
                break;
            };
            *sent += ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(context, buffer);
        let progress = &this.progress;
        let some = buffer.filled().len() > before;
        if some && progress.answering.get() == 0 && progress.head_began.get().is_none() {
            progress.head_began.set(Some(Instant::now()));
        }
        result
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.instead.borrow().is_none()
            && this.progress.answering.get() == 0
            && let Some(text) = instead_of(bytes)
        {
            *this.instead.borrow_mut() = Some((text, 0));
        }
        if this.instead.borrow().is_some() {
            let sent = this.poll_instead(context).map_ok(|()| bytes.len());
            return this.note_write(sent);
        }
        let result = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.note_write(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(context, parts);
        this.note_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Puts the guard before the HTTP service `inner`.
pub(super) struct Guard<S> {
    pub(super) inner: S,
    pub(super) connections: Connections,
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
    type Service = Guard<S::Service>;
    type InitError = S::InitError;
    type Future = LocalBoxFuture<'static, Result<Self::Service, Self::InitError>>;

    fn new_service(&self, config: ()) -> Self::Future {
        let (inner, connections) = (self.inner.new_service(config), self.connections.clone());
        Box::pin(async move { Ok(Guard { inner: inner.await?, connections }) })
    }
}

impl<S> Service<TcpStream> for Guard<S>
where
    S: Service<(Guarded, Protocol, Option<SocketAddr>), Response = ()>,
    S::Future: 'static,
{
    type Response = ();
    type Error = S::Error;
    type Future = Watched<S::Future>;

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&self, stream: TcpStream) -> Self::Future {
        let peer = stream.peer_addr().ok();
        let address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let permit = match self.connections.enter(address) {
            Ok(permit) => permit,
            Err(full) => {
                metrics::counter!("http_connections_refused_total", "limit" => full.to_string()).increment(1);
                return Watched::refusing(Box::pin(refuse(stream, full.answer())));
            }
        };
        // Answers come in small pieces, which Nagle's algorithm would hold back for a delayed ACK. Fails only on a
        // connection that is gone.
        let _set = stream.set_nodelay(true);
        let progress = Rc::new(Progress::default());
        let guarded = Guarded { stream, progress: progress.clone(), instead: RefCell::new(None) };
        let serving = Box::pin(self.inner.call((guarded, Protocol::Http1, peer)));
        Watched { work: Work::Serving(serving, permit), progress, timer: None }
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

/// What is done with a connection.
enum Work<F> {
    Serving(Pin<Box<F>>, #[expect(dead_code, reason = "held until the connection ends")] Permit),
    Refusing(LocalBoxFuture<'static, ()>),
    Over,
}

/// Serves one connection until it ends, or has to.
pub(super) struct Watched<F> {
    work: Work<F>,
    progress: Rc<Progress>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F> Watched<F> {
    fn refusing(refusal: LocalBoxFuture<'static, ()>) -> Self {
        Self { work: Work::Refusing(refusal), progress: Rc::default(), timer: None }
    }
}

impl<F, E> Future for Watched<F>
where
    F: Future<Output = Result<(), E>>,
{
    type Output = Result<(), E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ended = match &mut this.work {
            Work::Serving(serving, _) => serving.as_mut().poll(context),
            Work::Refusing(refusal) => return refusal.as_mut().poll(context).map(Ok),
            Work::Over => return Poll::Ready(Ok(())),
        };
        if ended.is_ready() {
            return ended;
        }
        let Some(deadline) = this.progress.deadline() else {
            this.timer = None;
            return Poll::Pending;
        };
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        ready!(timer.as_mut().poll(context));
        metrics::counter!("http_connections_timed_out_total").increment(1);
        this.work = Work::Over; // Closes the connection.
        Poll::Ready(Ok(()))
    }
}
