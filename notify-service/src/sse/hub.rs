//! Who is connected, where they are, and who has to be looked up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use common::ids::UserId;
use common::telemetry::trace::Origin;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::Instant;

use super::event;
use crate::db::events::{Position, StoredEvent};
use crate::settings::SseSettings;

/// When to look again after a wake-up that came before its row was committed; after these it is left to the sweep.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];
/// When to look again for a client that had no room.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// The connected streams of this replica. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    state: Arc<Mutex<State>>,
    woken: Arc<Notify>,
    settings: SseSettings,
}

#[derive(Default)]
struct State {
    users: HashMap<UserId, Vec<Client>>,
    /// Whom to look up, and when.
    due: HashMap<UserId, Due>,
    /// Responses that exist, joined or not.
    open: usize,
    last_id: u64,
}

#[derive(Clone, Copy)]
struct Due {
    at: Instant,
    /// Looks left, this one not counted.
    again: usize,
    /// What woke, if it is traced.
    origin: Origin,
}

/// One user to be read for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// From where on, and how much.
    pub position: Position,
    /// How often to look again should there be nothing.
    again: usize,
    /// What woke, if it is traced.
    pub origin: Origin,
}

struct Client {
    id: u64,
    /// The last event that was put into its buffer.
    position: i64,
    frames: Sender<Bytes>,
    /// Since when its buffer has been full with something waiting.
    stalled_since: Option<Instant>,
}

/// A place among the streams of this replica; it ends with this value.
pub struct Place {
    hub: Hub,
    user: UserId,
    id: u64,
}

impl Hub {
    /// Nobody is connected.
    pub fn new(settings: SseSettings) -> Self {
        Self { state: Arc::default(), woken: Arc::default(), settings }
    }

    /// A place for one more stream; `None`: there are as many as there may be.
    pub fn admit(&self, user: UserId) -> Option<Place> {
        let mut state = self.lock();
        if state.open >= self.settings.streams_max {
            return None;
        }
        state.open += 1;
        state.last_id += 1;
        let place = Place { hub: self.clone(), user, id: state.last_id };
        metrics::gauge!("sse_streams").set(as_f64(state.open));
        Some(place)
    }

    /// Wakes the reader for those of `users` that are connected. `committed`: what woke them can be read already.
    pub fn wake<'a>(&self, users: impl IntoIterator<Item = &'a UserId>, committed: bool) {
        let mut state = self.lock();
        if state.users.is_empty() {
            return;
        }
        let again = if committed { 0 } else { LOOK_AGAIN.len() };
        let due = Due { at: Instant::now(), again, origin: Origin::current() };
        let mut woken = false;
        for user in users {
            if state.users.contains_key(user) {
                state.look_up(user, due);
                woken = true;
            }
        }
        drop(state);
        if woken {
            self.woken.notify_one();
        }
    }

    /// Waits until somebody was woken, or a look-up that was put off is due.
    pub async fn work(&self) {
        let next = self.lock().due.values().map(|due| due.at).min();
        match next {
            Some(at) => tokio::select! {
                () = self.woken.notified() => {}
                () = tokio::time::sleep_until(at) => {}
            },
            None => self.woken.notified().await,
        }
    }

    /// Everybody who is connected.
    pub fn connected(&self) -> Vec<UserId> {
        self.lock().users.keys().cloned().collect()
    }

    /// Wakes the reader for those of `users` who have not been told all, by the last numbers of `heads`.
    pub fn catch_up(&self, users: &[UserId], heads: &HashMap<String, i64>) {
        let state = self.lock();
        let is_behind = |user: &&UserId| {
            let head = heads.get(user.as_str()).copied().unwrap_or(0);
            let clients = state.users.get(*user).map(Vec::as_slice).unwrap_or_default();
            clients.iter().any(|client| client.position < head)
        };
        let behind: Vec<&UserId> = users.iter().filter(is_behind).collect();
        drop(state);
        self.wake(behind, true);
    }

    /// What to read now: for everybody who is due, from the client that is furthest behind and has room. Whoever is
    /// woken from now on is due again.
    pub fn looks(&self) -> Vec<Look> {
        let now = Instant::now();
        let stall = Duration::from_millis(self.settings.stall_ms);
        let mut state = self.lock();
        let due: Vec<(UserId, Due)> = state.due.extract_if(|_, due| due.at <= now).collect();
        let mut looks = Vec::with_capacity(due.len());
        for (user_id, Due { again, origin, .. }) in due {
            let Some(clients) = state.users.get_mut(&user_id) else { continue };
            drop_stalled(clients, now, stall);
            let with_room = clients.iter().filter(|client| client.frames.capacity() > 0);
            match with_room.map(|client| (client.position, client.frames.capacity())).min() {
                Some((after, room)) => {
                    let limit = i32::try_from(room).unwrap_or(i32::MAX);
                    looks.push(Look { position: Position { user_id, after, limit }, again, origin });
                }
                None if clients.is_empty() => {
                    state.users.remove(&user_id);
                }
                None => state.look_up(&user_id, Due { at: now + FULL_PAUSE, again, origin }),
            }
        }
        looks
    }

    /// Hands out what was read for `looks`, and decides who is looked up again.
    pub fn deliver(&self, looks: &[Look], events: &[StoredEvent]) {
        let now = Instant::now();
        let mut state = self.lock();
        let read: HashMap<&str, &[StoredEvent]> = events
            .chunk_by(|one, next| one.user_id == next.user_id)
            .filter_map(|own| Some((own.first()?.user_id.as_str(), own)))
            .collect();
        for Look { position, again, origin } in looks {
            let Some(clients) = state.users.get_mut(&position.user_id) else { continue };
            let own = read.get(position.user_id.as_str()).copied().unwrap_or_default();
            let behind = hand_out(clients, position.after, own);
            let more = own.len() >= usize::try_from(position.limit).unwrap_or(usize::MAX);
            let origin = *origin;
            let next = match again.checked_sub(1) {
                _ if behind => Some(Due { at: now + FULL_PAUSE, again: *again, origin }),
                _ if more => Some(Due { at: now, again: *again, origin }),
                // Nothing yet: it may not be committed.
                Some(left) if own.is_empty() => {
                    let at = now + LOOK_AGAIN[LOOK_AGAIN.len() - again];
                    Some(Due { at, again: left, origin })
                }
                Some(_) | None => None,
            };
            if let Some(next) = next {
                state.look_up(&position.user_id, next);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// At the earlier of what was planned and `due`, and as often as either says.
    fn look_up(&mut self, user: &UserId, due: Due) {
        match self.due.get_mut(user) {
            Some(planned) => {
                planned.at = planned.at.min(due.at);
                planned.again = planned.again.max(due.again);
                if due.origin.is_sampled() {
                    planned.origin = due.origin;
                }
            }
            None => {
                self.due.insert(user.clone(), due);
            }
        }
    }
}

/// Puts the events that come after `after` into the buffers, to each client what it has not had; true if there is
/// one that has to be read for again, from further behind or because it had no room.
fn hand_out(clients: &mut [Client], after: i64, events: &[StoredEvent]) -> bool {
    let frames: Vec<(i64, Bytes)> =
        events.iter().map(|stored| (stored.seq, event(stored.seq, &stored.data))).collect();
    let mut behind = false;
    for client in clients {
        if client.position < after {
            // It had no room, or came later than the read: with these events it would have a gap.
            behind = true;
            continue;
        }
        for (seq, frame) in &frames {
            if *seq <= client.position {
                continue;
            }
            if client.frames.try_send(frame.clone()).is_err() {
                // Full, or gone: then its place ends by itself. Nothing after this one, or there would be a gap.
                behind = true;
                break;
            }
            client.position = *seq;
        }
    }
    behind
}

/// Ends the streams of clients that have taken nothing for too long; they resume where they were when they come back.
fn drop_stalled(clients: &mut Vec<Client>, now: Instant, stall: Duration) {
    clients.retain_mut(|client| {
        if client.frames.capacity() > 0 {
            client.stalled_since = None;
            return true;
        }
        let stalled = now.duration_since(*client.stalled_since.get_or_insert(now)) >= stall;
        if stalled {
            metrics::counter!("sse_streams_ended_total", "reason" => "slow").increment(1);
        }
        !stalled
    });
}

impl Place {
    /// Whose stream it is.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// Joins at `position`: what comes after it is told. A user's oldest stream ends when there would be too many.
    pub fn join(&self, position: i64) -> Receiver<Bytes> {
        let settings = self.hub.settings;
        let (frames, receiver) = mpsc::channel(settings.buffer_max);
        let mut state = self.hub.lock();
        let clients = state.users.entry(self.user.clone()).or_default();
        if clients.len() >= settings.per_user_max {
            clients.remove(0);
            metrics::counter!("sse_streams_ended_total", "reason" => "replaced").increment(1);
        }
        clients.push(Client { id: self.id, position, frames, stalled_since: None });
        drop(state);
        // Committed between reading the position and joining: nobody was there to be woken.
        self.hub.wake([&self.user], true);
        receiver
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        state.open -= 1;
        metrics::gauge!("sse_streams").set(as_f64(state.open));
        if let Some(clients) = state.users.get_mut(&self.user) {
            clients.retain(|client| client.id != self.id);
            if clients.is_empty() {
                state.users.remove(&self.user);
                state.due.remove(&self.user);
            }
        }
    }
}

fn as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
