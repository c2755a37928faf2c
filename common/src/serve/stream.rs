//! The stream of a connection, which notes what goes through it.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::answers::instead_of;
use super::progress::Progress;

/// Within so many bytes of an answer's beginning the library says that the connection ends.
const CLOSING_WITHIN_BYTES: usize = 512;
/// How it says so.
const CLOSING: &[u8] = b"connection: close";

/// A connection that notes its progress. When it is dropped, the stream may go back to the progress.
pub(super) struct Guarded {
    /// There until this is dropped.
    stream: Option<TcpStream>,
    progress: Rc<Progress>,
    /// An answer that goes out instead of the library's, and how much of it has.
    instead: RefCell<Option<(String, usize)>>,
}

impl Guarded {
    pub(super) fn new(stream: TcpStream, progress: Rc<Progress>) -> Self {
        Self { stream: Some(stream), progress, instead: RefCell::new(None) }
    }

    pub(super) fn progress(&self) -> Rc<Progress> {
        self.progress.clone()
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn note_write<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.progress.written(result.is_ready());
        result
    }

    /// Sends the rest of what goes out instead of the library's answer.
    fn poll_instead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((text, mut sent)) = self.instead.take() else { return Poll::Ready(Ok(())) };
        while let Some(rest) = text.as_bytes().get(sent..).filter(|rest| !rest.is_empty()) {
            match self.stream()?.poll_write(context, rest) {
                Poll::Ready(written) => sent += written?,
                Poll::Pending => {
                    self.instead.replace(Some((text, sent)));
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.progress.give_back(self.stream.take());
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
        ready!(this.stream()?.poll_read(context, buffer))?;
        this.progress.read(buffer.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.instead.borrow().is_none()
            && !this.progress.is_answering()
            && let Some(text) = instead_of(bytes)
        {
            this.progress.ends();
            this.instead.replace(Some((text, 0)));
        }
        if this.instead.borrow().is_some() {
            let sent = this.poll_instead(context).map_ok(|()| bytes.len());
            return this.note_write(sent);
        }
        // The library ends connections of its own accord as well, where a request was not read to its end.
        let begins = bytes.get(..CLOSING_WITHIN_BYTES).unwrap_or(bytes);
        if begins.starts_with(b"HTTP/1.") && memchr::memmem::find(begins, CLOSING).is_some() {
            this.progress.ends();
        }
        let result = this.stream()?.poll_write(context, bytes);
        this.note_write(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = this.stream()?.poll_write_vectored(context, parts);
        this.note_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.progress.ends();
        this.stream()?.poll_shutdown(context)
    }
}
