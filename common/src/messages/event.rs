//! Reading an event: its id and its fields side by side, in one pass.
//!
//! `#[serde(flatten)]` would collect all fields in memory before it reads any, which takes several times as long, and every
//! service reads every event.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{BorrowedStrDeserializer, MapAccessDeserializer};
use serde::de::{DeserializeSeed, Error, IntoDeserializer as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Event;
use crate::ids::EventId;

const EVENT_ID: &str = "event_id";

impl<'de, E: Deserialize<'de>> Deserialize<'de> for Event<E> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reader(PhantomData))
    }
}

struct Reader<E>(PhantomData<E>);

impl<'de, E: Deserialize<'de>> Visitor<'de> for Reader<E> {
    type Value = Event<E>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Event<E>, A::Error> {
        let mut event_id = None;
        let data = E::deserialize(MapAccessDeserializer::new(WithoutId { fields, event_id: &mut event_id }))?;
        let event_id = event_id.ok_or_else(|| A::Error::missing_field(EVENT_ID))?;
        Ok(Event { event_id, data })
    }
}

/// All fields but the id, which is put aside when it comes by.
struct WithoutId<'a, A> {
    fields: A,
    event_id: &'a mut Option<EventId>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for WithoutId<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let mut seed = Some(seed);
        loop {
            match self.fields.next_key_seed(Key(&mut seed))? {
                None => return Ok(None),
                Some(Found::Field(key)) => return Ok(Some(key)),
                Some(Found::EventId) if self.event_id.is_some() => {
                    return Err(A::Error::duplicate_field(EVENT_ID));
                }
                Some(Found::EventId) => *self.event_id = Some(self.fields.next_value()?),
            }
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.fields.next_value_seed(seed)
    }
}

/// Reads a name with the seed, which is left where it is if the name is the id's.
struct Key<'a, K>(&'a mut Option<K>);

enum Found<T> {
    EventId,
    Field(T),
}

impl<K> Key<'_, K> {
    fn seed<X: Error>(self) -> Result<K, X> {
        self.0.take().ok_or_else(|| X::custom("a name was read twice"))
    }
}

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for Key<'_, K> {
    type Value = Found<K::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for Key<'_, K> {
    type Value = Found<K::Value>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a field")
    }

    fn visit_str<X: Error>(self, name: &str) -> Result<Self::Value, X> {
        if name == EVENT_ID {
            return Ok(Found::EventId);
        }
        self.seed()?.deserialize(name.into_deserializer()).map(Found::Field)
    }

    fn visit_borrowed_str<X: Error>(self, name: &'de str) -> Result<Self::Value, X> {
        if name == EVENT_ID {
            return Ok(Found::EventId);
        }
        self.seed()?.deserialize(BorrowedStrDeserializer::new(name)).map(Found::Field)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Data {
        name: String,
        count: Option<u32>,
    }

    const ID: &str = "00000000-0000-0000-0000-000000000007";

    fn read(text: &str) -> Result<Event<Data>, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_id_may_be_anywhere_among_the_fields() {
        let texts = [
            format!(r#"{{"event_id":"{ID}","name":"a","count":1}}"#),
            format!(r#"{{"name":"a","unknown":[{{"event_id":1}}],"event_id":"{ID}","count":1}}"#),
            format!(r#"{{"count":1,"n\u0061me":"a","event\u005fid":"{ID}"}}"#),
        ];
        for text in texts {
            let event = read(&text).unwrap();
            assert_eq!(event.event_id.0.to_string(), ID, "{text}");
            assert_eq!(event.data, Data { name: "a".to_owned(), count: Some(1) }, "{text}");
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::from_value::<Event<Data>>(value).unwrap(), event, "{text}");
        }
    }

    #[test]
    fn an_event_without_id_with_two_or_without_its_fields_is_none() {
        let missing = read(r#"{"name":"a"}"#).unwrap_err();
        assert!(missing.contains("missing field `event_id`"), "{missing}");
        let twice = read(&format!(r#"{{"event_id":"{ID}","name":"a","event_id":"{ID}"}}"#)).unwrap_err();
        assert!(twice.contains("duplicate field `event_id`"), "{twice}");
        let unnamed = read(&format!(r#"{{"event_id":"{ID}"}}"#)).unwrap_err();
        assert!(unnamed.contains("missing field `name`"), "{unnamed}");
        assert!(read("[]").is_err());
    }

    #[test]
    fn what_reads_every_field_does_not_see_the_id() {
        let text = format!(r#"{{"a":"1","event_id":"{ID}"}}"#);
        let event: Event<BTreeMap<String, String>> = serde_json::from_str(&text).unwrap();
        assert_eq!(event.data, BTreeMap::from([("a".to_owned(), "1".to_owned())]));
    }
}
