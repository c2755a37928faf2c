//! From the bytes of a message to what a handler gets.

use chrono::{DateTime, Utc};
use lapin::message::Delivery;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use uuid::Uuid;

use super::{QUEUE_HEADER, REASON_HEADER, trace};
use crate::messages::{ENVELOPE_EVENTS_MAX, Event};

/// Longest message that is read, in bytes: some ten times what 256 events have. It bounds what parsing costs.
const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// One event, as a handler gets it.
#[derive(Debug, Clone)]
pub struct Incoming<E> {
    /// What happened, with the identity to deduplicate by.
    pub event: Event<E>,
    /// The message that it came in.
    pub envelope_id: Uuid,
    /// Its type, one of those accepted.
    pub kind: &'static str,
    /// When the producer wrote the message.
    pub occurred_at: DateTime<Utc>,
    /// Whether the message was delivered before, to whomever; `false` proves nothing.
    pub redelivered: bool,
}

/// One message as it is, for those who look after parked ones.
#[derive(Debug, Clone)]
pub struct Raw {
    /// The envelope's id, if the message says it.
    pub message_id: Option<Uuid>,
    /// The envelope's type, if the message says it.
    pub kind: Option<String>,
    /// Why it was parked; `None`: by the broker, after too many deliveries.
    pub reason: Option<String>,
    /// The queue it was parked from, if the message says it.
    pub queue: Option<String>,
    /// The bytes.
    pub body: Vec<u8>,
}

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Handled, now or before.
    Done,
    /// It can never work, for this reason: to the dead-letter queue, alone.
    Park(String),
}

/// One message on its way to the dead-letter queue.
#[derive(Debug)]
pub(super) struct Park {
    pub(super) message_id: Uuid,
    pub(super) kind: String,
    pub(super) body: Vec<u8>,
    pub(super) reason: String,
}

/// What is in a delivery: items for the handler, and what it never gets to see.
pub(super) struct Decoded<T> {
    pub(super) items: Vec<At<T>>,
    pub(super) parked: Vec<Park>,
}

/// An item and its position in its message.
pub(super) struct At<T> {
    pub(super) position: usize,
    pub(super) item: T,
}

/// How deliveries become items.
pub(super) trait Decode: Send + Sync + 'static {
    /// What a handler gets.
    type Item: Send + 'static;

    /// Takes a delivery apart.
    fn decode(&self, delivery: &Delivery) -> Decoded<Self::Item>;

    /// Crash points before and after an acknowledgement; `None`: there are none.
    fn acknowledging(&self) -> Option<[&'static str; 2]> {
        None
    }

    /// A message with nothing but the item at `position`.
    fn single(&self, delivery: &Delivery, position: usize, reason: String) -> Park;
}

/// The events of one message, each decoded or not; an error: nothing of it can be read.
type Events<E> = serde_json::Result<Vec<serde_json::Result<Event<E>>>>;

type ReadEvents<E> = dyn Fn(&[u8]) -> Events<E> + Send + Sync;
type ReadWhole<E> = dyn Fn(&[u8]) -> serde_json::Result<Whole<E>> + Send + Sync;

/// The message types that a consumer understands, and what it makes of each; a message of another type is parked.
///
/// `Accepts::new().kind(RESERVED_V1, Event::Reserved).kind(FENCE_V1, Event::Fence)`
pub struct Accepts<E> {
    kinds: Vec<Kind<E>>,
    acknowledging: Option<[&'static str; 2]>,
}

struct Kind<E> {
    name: &'static str,
    /// All of a message in one reading; an error: something in it is not as it should be.
    whole: Box<ReadWhole<E>>,
    /// Its events one by one, so that the good ones get through.
    events: Box<ReadEvents<E>>,
}

impl<E> Default for Accepts<E> {
    fn default() -> Self {
        Self { kinds: Vec::new(), acknowledging: None }
    }
}

impl<E> Accepts<E> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also messages of type `name`, whose events have the shape `T`.
    #[must_use]
    pub fn kind<T: DeserializeOwned>(
        mut self,
        name: &'static str,
        into: impl Fn(T) -> E + Clone + Send + Sync + 'static,
    ) -> Self {
        let event = move |event: Event<T>| Event { event_id: event.event_id, data: into(event.data) };
        let one_by_one = event.clone();
        let whole = move |body: &[u8]| read_whole(body, &event);
        let events = move |body: &[u8]| read_events(body, &one_by_one);
        self.kinds.push(Kind { name, whole: Box::new(whole), events: Box::new(events) });
        self
    }
}

impl<E> Accepts<E> {
    /// Names the crash points ([`crate::failpoint`]) before and after a batch is acknowledged.
    #[must_use]
    pub fn acknowledging(mut self, before: &'static str, after: &'static str) -> Self {
        self.acknowledging = Some([before, after]);
        self
    }
}

/// What every envelope says, whatever its events are.
#[derive(Deserialize)]
struct Head {
    id: Uuid,
    #[serde(rename = "type")]
    kind: String,
    occurred_at: DateTime<Utc>,
    events: Vec<IgnoredAny>,
}

/// A message of a known type.
#[derive(Deserialize)]
struct Whole<E> {
    id: Uuid,
    #[serde(rename = "type")]
    kind: String,
    occurred_at: DateTime<Utc>,
    events: Vec<Event<E>>,
}

#[derive(Deserialize)]
struct Body {
    events: Vec<Value>,
}

fn read_whole<T: DeserializeOwned, E>(
    body: &[u8],
    event: impl Fn(Event<T>) -> Event<E>,
) -> serde_json::Result<Whole<E>> {
    let Whole { id, kind, occurred_at, events } = serde_json::from_slice::<Whole<T>>(body)?;
    Ok(Whole { id, kind, occurred_at, events: events.into_iter().map(event).collect() })
}

fn read_events<T: DeserializeOwned, E>(body: &[u8], event: impl Fn(Event<T>) -> Event<E>) -> Events<E> {
    let body: Body = serde_json::from_slice(body)?;
    Ok(body.events.into_iter().map(|one| serde_json::from_value(one).map(&event)).collect())
}

impl<E> Accepts<E> {
    fn accepted(&self, name: &str) -> Option<&Kind<E>> {
        self.kinds.iter().find(|kind| kind.name == name)
    }

    /// The message in one reading, if its properties name its type truly and nothing is wrong with it.
    fn sound(&self, delivery: &Delivery) -> Option<(&'static str, Whole<E>)> {
        let kind = self.accepted(delivery.properties.kind().as_ref()?.as_str())?;
        let whole = (kind.whole)(&delivery.data).ok()?;
        let is_sound = whole.kind == kind.name && (1..=ENVELOPE_EVENTS_MAX).contains(&whole.events.len());
        is_sound.then_some((kind.name, whole))
    }
}

impl<E: Send + 'static> Decode for Accepts<E> {
    type Item = Incoming<E>;

    fn decode(&self, delivery: &Delivery) -> Decoded<Self::Item> {
        let whole =
            |reason: String| Decoded { items: Vec::new(), parked: vec![park_whole(delivery, reason)] };
        if delivery.data.len() > MESSAGE_BYTES_MAX {
            return whole(format!("has {} bytes, more than {MESSAGE_BYTES_MAX}", delivery.data.len()));
        }
        if let Some((kind, Whole { id, occurred_at, events, .. })) = self.sound(delivery) {
            let redelivered = delivery.redelivered;
            let incoming = |event| Incoming { event, envelope_id: id, kind, occurred_at, redelivered };
            let items = events.into_iter().enumerate();
            let items = items.map(|(position, event)| At { position, item: incoming(event) });
            return Decoded { items: items.collect(), parked: Vec::new() };
        }
        let head: Head = match serde_json::from_slice(&delivery.data) {
            Ok(head) => head,
            Err(error) => return whole(format!("not an envelope: {error}")),
        };
        if !(1..=ENVELOPE_EVENTS_MAX).contains(&head.events.len()) {
            return whole(format!("has {} events", head.events.len()));
        }
        let Some(kind) = self.accepted(&head.kind) else {
            return whole(format!("unknown type {}", head.kind));
        };
        let events = match (kind.events)(&delivery.data) {
            Ok(events) => events,
            Err(error) => return whole(format!("not an envelope: {error}")),
        };

        let mut decoded = Decoded { items: Vec::with_capacity(events.len()), parked: Vec::new() };
        for (position, event) in events.into_iter().enumerate() {
            match event {
                Ok(event) => decoded.items.push(At {
                    position,
                    item: Incoming {
                        event,
                        envelope_id: head.id,
                        kind: kind.name,
                        occurred_at: head.occurred_at,
                        redelivered: delivery.redelivered,
                    },
                }),
                Err(error) => decoded.parked.push(self.single(delivery, position, error.to_string())),
            }
        }
        decoded
    }

    fn acknowledging(&self) -> Option<[&'static str; 2]> {
        self.acknowledging
    }

    fn single(&self, delivery: &Delivery, position: usize, reason: String) -> Park {
        match single_event(&delivery.data, position) {
            Some((message_id, body)) => Park { message_id, body, ..park_whole(delivery, reason) },
            None => park_whole(delivery, reason),
        }
    }
}

/// The envelope with one of its events alone, and that event's id.
fn single_event(body: &[u8], position: usize) -> Option<(Uuid, Vec<u8>)> {
    let mut envelope: Value = serde_json::from_slice(body).ok()?;
    let event = envelope.get_mut("events")?.get_mut(position)?.take();
    let id = event.get("event_id").or(envelope.get("id"))?.as_str()?.parse().ok()?;
    envelope["events"] = Value::Array(vec![event]);
    Some((id, serde_json::to_vec(&envelope).ok()?))
}

fn park_whole(delivery: &Delivery, reason: String) -> Park {
    Park {
        message_id: message_id(delivery).unwrap_or_else(Uuid::new_v4),
        kind: kind(delivery).unwrap_or_default(),
        body: delivery.data.clone(),
        reason,
    }
}

fn message_id(delivery: &Delivery) -> Option<Uuid> {
    delivery.properties.message_id().as_ref()?.as_str().parse().ok()
}

fn kind(delivery: &Delivery) -> Option<String> {
    delivery.properties.kind().as_ref().map(ToString::to_string)
}

/// Takes deliveries as they are.
pub(super) struct AsTheyAre;

impl Decode for AsTheyAre {
    type Item = Raw;

    fn decode(&self, delivery: &Delivery) -> Decoded<Raw> {
        let item = Raw {
            message_id: message_id(delivery),
            kind: kind(delivery),
            reason: trace::header(&delivery.properties, REASON_HEADER),
            queue: trace::header(&delivery.properties, QUEUE_HEADER),
            body: delivery.data.clone(),
        };
        Decoded { items: vec![At { position: 0, item }], parked: Vec::new() }
    }

    fn single(&self, delivery: &Delivery, _: usize, reason: String) -> Park {
        park_whole(delivery, reason)
    }
}
