//! A stream whose other side has to answer.
//!
//! A server that stands still, or a network that swallows what it is given, leaves a question without an answer and the
//! connection open, for ever as far as the kernel is concerned. So whoever has asked something and hears nothing for too
//! long takes the connection for dead. While nothing is asked, silence is fine.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Bytes at the end of an answer that say whether it is complete.
pub type Tail = [u8; 6];

/// Fails with [`io::ErrorKind::TimedOut`] when an answer is awaited and nothing comes for too long.
pub struct Attentive<S> {
    stream: S,
    patience: Duration,
    is_complete: fn(&Tail) -> bool,
    tail: Tail,
    /// Set while an answer is awaited.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<S> Attentive<S> {
    /// Watches `stream`. What is sent asks for an answer; `is_complete` knows its end by the last bytes.
    pub fn new(stream: S, patience: Duration, is_complete: fn(&Tail) -> bool) -> Self {
        Self { stream, patience, is_complete, tail: Tail::default(), alarm: None }
    }

    /// An error once the other side has been silent for too long; until then the task is woken when it has.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(alarm) = &mut self.alarm else { return Ok(()) };
        match alarm.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn heard(&mut self, bytes: &[u8]) {
        let fresh = &bytes[bytes.len().saturating_sub(self.tail.len())..];
        self.tail.rotate_left(fresh.len());
        let kept = self.tail.len() - fresh.len();
        self.tail[kept..].copy_from_slice(fresh);
        if (self.is_complete)(&self.tail) {
            self.alarm = None;
        } else if let Some(alarm) = &mut self.alarm {
            alarm.as_mut().reset(Instant::now() + self.patience);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Attentive<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Pending => {
                self.check(cx)?;
                Poll::Pending
            }
            Poll::Ready(result) => {
                self.heard(&buffer.filled()[before..]);
                Poll::Ready(result)
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Attentive<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.alarm.is_none() {
            self.alarm = Some(Box::pin(sleep(self.patience)));
        }
        // Here too: whoever reads has looked before there was anything to wait for.
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Poll::Ready(self.check(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    fn ends_with_stop(tail: &Tail) -> bool {
        tail.ends_with(b"stop")
    }

    #[tokio::test]
    async fn silence_after_a_question_or_in_the_middle_of_an_answer_is_an_error() {
        for partial in [&b""[..], b"half"] {
            let (near, mut far) = duplex(64);
            let mut near = Attentive::new(near, Duration::from_millis(100), ends_with_stop);
            near.write_all(b"?").await.unwrap();
            far.write_all(partial).await.unwrap();
            let error = near.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
    }

    #[tokio::test]
    async fn a_slow_answer_is_fine_and_so_is_silence_while_nothing_is_asked() {
        const PATIENCE: Duration = Duration::from_secs(2);
        let (near, mut far) = duplex(64);
        let mut near = Attentive::new(near, PATIENCE, ends_with_stop);
        near.write_all(b"?").await.unwrap();
        let answering = async {
            for byte in b"a long answer, longer than one waits: st" {
                sleep(PATIENCE / 30).await;
                far.write_all(&[*byte]).await.unwrap();
            }
            far.write_all(b"op").await.unwrap();
            sleep(PATIENCE * 3 / 2).await;
            far.write_all(b" unasked").await.unwrap();
            drop(far);
        };
        let mut heard = Vec::new();
        let (read, ()) = tokio::join!(near.read_to_end(&mut heard), answering);
        read.unwrap();
        assert!(heard.ends_with(b"stop unasked"));
    }
}
