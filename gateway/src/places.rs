//! How many requests may wait at a time: event streams, per user and in all, and long polls.

use std::collections::HashMap;
use std::sync::Arc;

use common::ids::UserId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::settings::WaitSettings;

/// The places of one process.
pub struct Places {
    streams: Arc<Mutex<Streams>>,
    streams_max: usize,
    streams_per_user_max: u32,
    long_polls: Arc<Semaphore>,
}

#[derive(Default)]
struct Streams {
    all: usize,
    of_user: HashMap<UserId, u32>,
}

/// The place of one event stream, given back when it is dropped.
pub struct StreamPlace {
    streams: Arc<Mutex<Streams>>,
    user: UserId,
}

impl Places {
    /// All free.
    pub fn new(settings: &WaitSettings) -> Self {
        Self {
            streams: Arc::default(),
            streams_max: settings.streams_max,
            streams_per_user_max: settings.streams_per_user_max,
            long_polls: Arc::new(Semaphore::new(settings.long_polls_max)),
        }
    }

    /// A place for one more event stream of `user`; `None` when there are too many.
    pub fn stream(&self, user: &UserId) -> Option<StreamPlace> {
        let mut streams = self.streams.lock();
        let of_user = streams.of_user.get(user).copied().unwrap_or(0);
        if streams.all >= self.streams_max || of_user >= self.streams_per_user_max {
            return None;
        }
        streams.all += 1;
        streams.of_user.insert(user.clone(), of_user + 1);
        metrics::gauge!("gateway_event_streams").increment(1.0);
        Some(StreamPlace { streams: self.streams.clone(), user: user.clone() })
    }

    /// A place for one more long poll; `None` when there are too many.
    pub fn long_poll(&self) -> Option<OwnedSemaphorePermit> {
        self.long_polls.clone().try_acquire_owned().ok()
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut streams = self.streams.lock();
        streams.all -= 1;
        if let Some(count) = streams.of_user.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                streams.of_user.remove(&self.user);
            }
        }
        metrics::gauge!("gateway_event_streams").decrement(1.0);
    }
}
