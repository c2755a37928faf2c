//! A Bloom filter of order ids, small enough to travel with the catalogue.
//!
//! Order ids carry 90 bits of SHA-256, so the bits of the id serve as its hashes (double hashing after Kirsch and
//! Mitzenmacher, "Less Hashing, Same Performance", 2006). The layout is on the wire: changing it needs a new field.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::ids::OrderId;

/// Bits for each id; with [`PROBES`] that makes about one false positive in 15,000. Each costs a question to the
/// inventory, a hundred times what a refusal costs without one. May change: whoever reads a filter takes its length.
const BITS_PER_ID: usize = 24;
/// Bits looked at for an id. Part of the layout.
const PROBES: u64 = 7;
/// Fewest bits in a filter.
const BITS_MIN: usize = 64;

/// A set of order ids that may say "maybe" of a stranger, never "no" of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdFilter {
    bits: Vec<u8>,
}

impl IdFilter {
    /// A filter of exactly these ids.
    pub fn of(ids: &[OrderId]) -> Self {
        let bytes = (ids.len() * BITS_PER_ID).max(BITS_MIN).div_ceil(8);
        let mut filter = Self { bits: vec![0; bytes] };
        for id in ids {
            for (byte, mask) in filter.probes(*id) {
                filter.bits[byte] |= mask;
            }
        }
        filter
    }

    /// False: certainly not a member. True: a member, or one stranger in about 15,000.
    pub fn may_contain(&self, id: OrderId) -> bool {
        self.probes(id).all(|(byte, mask)| self.bits[byte] & mask != 0)
    }

    fn probes(&self, id: OrderId) -> impl Iterator<Item = (usize, u8)> + use<> {
        let (first, second) = id.0.as_u64_pair();
        let length = self.bits.len() as u64 * 8;
        // The upper half of `first` is the item's tag, the same for all; odd steps reach every bit.
        let (start, step) = (second, (first & 0xFFFF_FFFF) | 1);
        (0..PROBES).map(move |probe| {
            let bit = start.wrapping_add(probe.wrapping_mul(step)) % length;
            // Below the length of a vector, so it fits.
            (usize::try_from(bit / 8).unwrap_or(0), 1 << (bit % 8))
        })
    }
}

impl TryFrom<String> for IdFilter {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bits = STANDARD.decode(text).map_err(|_| "not base64")?;
        if bits.is_empty() { Err("an id filter has at least one byte") } else { Ok(Self { bits }) }
    }
}

impl From<IdFilter> for String {
    fn from(filter: IdFilter) -> Self {
        STANDARD.encode(filter.bits)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::{IdempotencyKey, ItemId, UserId};

    fn ids(user: &str, count: usize) -> Vec<OrderId> {
        let user = UserId::try_from(user.to_owned()).unwrap();
        let item = ItemId(Uuid::from_u128(7));
        (0..count)
            .map(|n| OrderId::derive(&user, item, &IdempotencyKey::try_from(format!("k{n}")).unwrap()))
            .collect()
    }

    #[test]
    fn members_are_never_denied_and_strangers_nearly_always() {
        let members = ids("member", 10_000);
        let filter = IdFilter::of(&members);
        assert!(members.iter().all(|id| filter.may_contain(*id)));
        let false_positives = ids("stranger", 100_000).iter().filter(|id| filter.may_contain(**id)).count();
        assert!(false_positives < 30, "{false_positives} of 100,000 strangers were taken for members");
    }

    #[test]
    fn an_empty_filter_denies_everybody() {
        let filter = IdFilter::of(&[]);
        assert!(ids("anyone", 100).iter().all(|id| !filter.may_contain(*id)));
    }

    #[test]
    fn survives_the_wire() {
        let filter = IdFilter::of(&ids("member", 100));
        let json = serde_json::to_string(&filter).unwrap();
        assert_eq!(serde_json::from_str::<IdFilter>(&json).unwrap(), filter);
        assert!(serde_json::from_str::<IdFilter>("\"\"").is_err());
    }
}
