//! How many requests may wait at a time: event streams and long polls.
//!
//! How many streams one user may have is bound by notify-service, which ends the oldest for a new one: a phone with
//! half-dead connections must not lock itself out.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::settings::WaitSettings;

/// The place of one event stream, given back when it is dropped.
pub struct StreamPlace {
    _permit: OwnedSemaphorePermit,
}

/// The places of one process.
pub struct Places {
    streams: Arc<Semaphore>,
    long_polls: Arc<Semaphore>,
}

impl Places {
    /// All free.
    pub fn new(settings: &WaitSettings) -> Self {
        Self {
            streams: Arc::new(Semaphore::new(settings.streams_max)),
            long_polls: Arc::new(Semaphore::new(settings.long_polls_max)),
        }
    }

    /// A place for one more event stream; `None` when there are too many.
    pub fn stream(&self) -> Option<StreamPlace> {
        let permit = self.streams.clone().try_acquire_owned().ok()?;
        metrics::gauge!("gateway_event_streams").increment(1.0);
        Some(StreamPlace { _permit: permit })
    }

    /// A place for one more long poll; `None` when there are too many.
    pub fn long_poll(&self) -> Option<OwnedSemaphorePermit> {
        self.long_polls.clone().try_acquire_owned().ok()
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        metrics::gauge!("gateway_event_streams").decrement(1.0);
    }
}
