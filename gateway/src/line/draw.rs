//! The draw: who is where in the line of those who were there before the opening, so that anyone can check it.
//!
//! A participant is known to others by a ticket, the hash of item and user. When the line opens, the hash of a seed is
//! published; when it closes for the draw, the hash of the sorted list of tickets; then the seed and the list. Nobody
//! can choose a ticket's place without knowing the seed, and the seed cannot be chosen after the list.

use common::ids::{ItemId, UserId};
use ring::digest::{Context, SHA256, digest};
use ring::hmac;

/// What is published beside the figures, so that nobody has to read this file.
pub const ALGORITHM: &str = "ticket = hex(SHA-256(\"stampede/line/1\\n\" + item_id + \"\\n\" + user_id)). commitment = \
    hex(SHA-256(seed)), with the seed as 32 bytes. list_hash = hex(SHA-256(all tickets, sorted, each followed by \
    \"\\n\")). The line is sorted by the first 13 hex digits of HMAC-SHA256(key = seed, message = the ticket as text), \
    then by ticket.";

/// Bits of the HMAC that make the place; a sorted set of Redis keeps 53 exactly.
const PLACE_BITS: u32 = 52;

/// By which name a user takes part in the line of an item: 64 hex digits.
pub fn ticket(item: ItemId, user: &UserId) -> String {
    let text = format!("stampede/line/1\n{item}\n{}", user.as_str());
    hex(digest(&SHA256, text.as_bytes()).as_ref())
}

/// The place of a ticket: lower is nearer to the front.
pub fn place(seed: &[u8], ticket: &str) -> u64 {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, seed), ticket.as_bytes());
    let first = tag.as_ref().iter().take(8).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    first >> (u64::BITS - PLACE_BITS)
}

/// What is published of a seed before the draw.
pub fn commitment(seed: &[u8]) -> String {
    hex(digest(&SHA256, seed).as_ref())
}

/// What is published of the participants when the line closes for the draw; sorts them.
pub fn list_hash(tickets: &mut [String]) -> String {
    tickets.sort_unstable();
    let mut hash = Context::new(&SHA256);
    for ticket in tickets {
        hash.update(ticket.as_bytes());
        hash.update(b"\n");
    }
    hex(hash.finish().as_ref())
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| DIGITS[usize::from(digit)]).collect()
}

/// The reverse of [`hex`]; `None`: not hexadecimal.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) || text.len() % 2 == 1 {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn tickets(count: usize) -> Vec<String> {
        let item = ItemId(Uuid::from_u128(7));
        (0..count).map(|n| ticket(item, &UserId::try_from(format!("u{n}")).expect("valid"))).collect()
    }

    #[test]
    fn a_place_is_what_the_algorithm_says() {
        let seed = [7; 32];
        let ticket = &tickets(1)[0];
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &seed), ticket.as_bytes());
        let digits = &hex(tag.as_ref())[..13];
        assert_eq!(place(&seed, ticket), u64::from_str_radix(digits, 16).expect("hexadecimal"));
        assert!(place(&seed, ticket) < 1 << 52);
    }

    #[test]
    fn the_order_is_the_seeds_and_nobody_elses() {
        let order = |seed: u8| {
            let mut drawn = tickets(1_000);
            drawn.sort_by_key(|ticket| place(&[seed; 32], ticket));
            drawn
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        // Half of the first hundred were in the first half before: nothing of the old order is left.
        let first_half = tickets(500);
        let stayed = order(1).iter().take(100).filter(|ticket| first_half.contains(ticket)).count();
        assert!((25..75).contains(&stayed), "{stayed}");
    }

    #[test]
    fn the_hash_of_the_list_does_not_depend_on_who_came_first() {
        let (mut forward, mut backward) = (tickets(10), tickets(10));
        backward.reverse();
        assert_eq!(list_hash(&mut forward), list_hash(&mut backward));
        assert_ne!(list_hash(&mut tickets(9)), list_hash(&mut tickets(10)));
    }

    #[test]
    fn hexadecimal_goes_both_ways() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        for bad in ["a", "zz", "+1", "ä"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }
}
