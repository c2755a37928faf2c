//! What is known of one connection: how far it has come, and when its time is up.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::RequestHead;
use actix_web::http::{Method, header};
use actix_web::rt::net::TcpStream;
use actix_web::web::Bytes;
use tokio::time::Instant;

use super::input::Input;

/// Most time for a client to send the head of a request once it has begun.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Most time without a client taking a byte of what it is sent.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection is kept that was to end, so that its last answer arrives.
const SURPLUS_TIMEOUT: Duration = Duration::from_millis(500);

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
    /// Where its requests end.
    input: Cell<Input>,
    /// The stream, on its way back from the library.
    returned: Cell<Option<TcpStream>>,
    /// Whether the library is to give it back.
    to_return: Cell<bool>,
}

impl Progress {
    /// The head of a request is there; until the result is dropped, a handler is at work.
    pub(super) fn answering(self: &Rc<Self>, head: &RequestHead) -> Answering {
        self.head_began.set(None);
        self.change_input(|input| input.head(body_bytes(head)));
        self.answer()
    }

    fn answer(self: &Rc<Self>) -> Answering {
        self.answering.set(self.answering.get() + 1);
        Answering(self.clone())
    }

    /// So many bytes were read.
    pub(super) fn read(&self, bytes: &[u8]) {
        let quiet = self.answering.get() == 0;
        if quiet && !bytes.is_empty() && self.head_began.get().is_none() {
            self.head_began.set(Some(Instant::now()));
        }
        self.change_input(|input| input.read(bytes, quiet));
    }

    /// Something was written, or could not be.
    pub(super) fn written(&self, some: bool) {
        if some {
            self.stalled.set(None);
        } else if self.stalled.get().is_none() {
            self.stalled.set(Some(Instant::now()));
        }
    }

    /// The connection is about to end.
    pub(super) fn ends(&self) {
        self.change_input(Input::lose);
    }

    /// Whether a handler is at work, or its answer is not made to its end.
    pub(super) fn is_answering(&self) -> bool {
        self.answering.get() > 0
    }

    fn change_input(&self, change: impl FnOnce(&mut Input)) {
        let mut input = self.input.get();
        change(&mut input);
        self.input.set(input);
    }

    /// Whether nothing of it is in the library's hands: each request was read and answered to its end, or there was none.
    pub(super) fn is_idle(&self) -> bool {
        let input = self.input.get();
        let answered = self.answering.get() == 0 && self.stalled.get().is_none() && !self.last_answered.get();
        answered && (input.is_at_end() || input.is_empty())
    }

    /// Whether nothing has come yet.
    pub(super) fn is_new(&self) -> bool {
        self.input.get().is_empty()
    }

    /// The stream, after `drop_holder` has dropped what holds it.
    pub(super) fn take_back(&self, drop_holder: impl FnOnce()) -> Option<TcpStream> {
        self.to_return.set(true);
        drop_holder();
        self.to_return.set(false);
        self.returned.take()
    }

    /// What holds the stream is dropped.
    pub(super) fn give_back(&self, stream: Option<TcpStream>) {
        if self.to_return.get() {
            self.returned.set(stream);
        }
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
    pub(super) fn deadline(&self) -> Option<Instant> {
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

/// How long the body is, if its head alone says it.
fn body_bytes(head: &RequestHead) -> Option<u64> {
    let headers = head.headers();
    let unsure = [header::TRANSFER_ENCODING, header::UPGRADE, header::EXPECT];
    if head.method == Method::CONNECT || unsure.iter().any(|name| headers.contains_key(name)) {
        return None;
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH);
    match (lengths.next(), lengths.next()) {
        (None, _) => Some(0),
        (Some(length), None) => length.to_str().ok()?.trim().parse().ok(),
        (Some(_), Some(_)) => None,
    }
}

pin_project_lite::pin_project! {
    /// A body that is at work until it is sent.
    pub(super) struct Answer<B> {
        #[pin]
        pub(super) body: B,
        pub(super) answering: Option<Answering>,
    }
}

impl<B: MessageBody> MessageBody for Answer<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.project().body.poll_next(context)
    }
}
