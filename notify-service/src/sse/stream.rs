//! The body of one stream.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc::Receiver;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::hub::Place;
use super::{PING, hello};
use crate::settings::SseSettings;

/// What a stream is made of.
struct Open {
    first: Option<Bytes>,
    frames: Receiver<Bytes>,
    ping: Duration,
    end: CancellationToken,
    /// Given up when the response ends, however it ends.
    _place: Place,
}

/// The stream of `place` from `position` on; it ends when `end` is cancelled or the hub drops the client.
pub fn body(
    place: Place,
    position: i64,
    settings: &SseSettings,
    end: CancellationToken,
) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
    let retry_ms = rand::random_range(settings.retry_min_ms..=settings.retry_max_ms);
    let frames = place.join(position);
    let open = Open {
        first: Some(hello(position, retry_ms)),
        frames,
        ping: Duration::from_millis(settings.ping_ms),
        end,
        _place: place,
    };
    futures_util::stream::unfold(open, async |mut open| Some((Ok(open.next().await?), open)))
}

impl Open {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        tokio::select! {
            biased;
            () = self.end.cancelled() => None,
            frame = self.frames.recv() => frame,
            () = sleep(self.ping) => Some(PING),
        }
    }
}
