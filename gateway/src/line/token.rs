//! Purchase tokens: what an admission of the waiting room is shown by. Checked by every gateway without asking anybody.
//!
//! `<admitted_ms>.<expires_ms>.<hex HMAC-SHA256>` over these two, the user and the item. It exists only after the
//! opening, for one user and one item, until it expires; that it is good for one order is for reserve.lua to see to.

use common::ids::{ItemId, UserId};
use ring::hmac;

use super::draw::{hex, unhex};

/// Longest token that is looked at, in bytes.
const LENGTH_MAX_BYTES: usize = 128;
/// What the key is derived with, so that the same secret can serve other purposes.
const PURPOSE: &[u8] = b"stampede purchase token 1";

/// One admission, as a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// When, in ms of the line's clock.
    pub admitted_ms: i64,
    /// Until when it is good, in ms of the line's clock.
    pub expires_ms: i64,
}

/// Writes and reads tokens.
pub struct PurchaseTokens {
    current: hmac::Key,
    previous: Option<hmac::Key>,
}

impl PurchaseTokens {
    /// Signs with `current`; `previous` still counts, for the time of a change of keys.
    pub fn new(current: &[u8], previous: Option<&[u8]>) -> Self {
        let derived = |secret: &[u8]| {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), PURPOSE);
            hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref())
        };
        Self { current: derived(current), previous: previous.map(derived) }
    }

    /// The token of an admission.
    pub fn write(&self, admission: Admission, user: &UserId, item: ItemId) -> String {
        let tag = hmac::sign(&self.current, signed(admission, user, item).as_bytes());
        format!("{}.{}.{}", admission.admitted_ms, admission.expires_ms, hex(tag.as_ref()))
    }

    /// The admission that the token shows; `None`: it is not ours, not this user's or not for this item.
    pub fn read(&self, token: &str, user: &UserId, item: ItemId) -> Option<Admission> {
        if token.len() > LENGTH_MAX_BYTES {
            return None;
        }
        let mut parts = token.splitn(3, '.');
        let (admitted, expires, tag) = (parts.next()?, parts.next()?, unhex(parts.next()?)?);
        let admission = Admission { admitted_ms: admitted.parse().ok()?, expires_ms: expires.parse().ok()? };
        // Other spellings of the same numbers are not what was signed.
        if format!("{}.{}", admission.admitted_ms, admission.expires_ms) != format!("{admitted}.{expires}") {
            return None;
        }
        let text = signed(admission, user, item);
        let good = |key: &hmac::Key| hmac::verify(key, text.as_bytes(), &tag).is_ok();
        (good(&self.current) || self.previous.as_ref().is_some_and(good)).then_some(admission)
    }
}

/// User ids have no line breaks, so the parts cannot run into each other.
fn signed(Admission { admitted_ms, expires_ms }: Admission, user: &UserId, item: ItemId) -> String {
    format!("{admitted_ms}\n{expires_ms}\n{item}\n{}", user.as_str())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const ITEM: ItemId = ItemId(Uuid::from_u128(7));
    const ADMISSION: Admission = Admission { admitted_ms: 1_763_829_742_123, expires_ms: 1_763_829_862_123 };

    fn user(name: &str) -> UserId {
        UserId::try_from(name.to_owned()).expect("valid")
    }

    #[test]
    fn a_token_is_good_for_its_user_and_item_and_nothing_in_it_can_be_changed() {
        let tokens = PurchaseTokens::new(b"one", None);
        let token = tokens.write(ADMISSION, &user("mei"), ITEM);
        assert_eq!(tokens.read(&token, &user("mei"), ITEM), Some(ADMISSION));
        assert_eq!(tokens.read(&token, &user("meix"), ITEM), None);
        assert_eq!(tokens.read(&token, &user("mei"), ItemId(Uuid::from_u128(8))), None);
        for at in 0..token.len() {
            let mut spoilt = token.clone().into_bytes();
            spoilt[at] = if spoilt[at] == b'1' { b'2' } else { b'1' };
            let spoilt = String::from_utf8(spoilt).expect("ASCII");
            assert_eq!(tokens.read(&spoilt, &user("mei"), ITEM), None, "byte {at}: {spoilt}");
        }
        for spoilt in
            ["", ".", "..", "1.2.", &token[..token.len() - 2], &format!("+{token}"), &format!("0{token}")]
        {
            assert_eq!(tokens.read(spoilt, &user("mei"), ITEM), None, "{spoilt}");
        }
        assert_eq!(tokens.read(&"9".repeat(10_000), &user("mei"), ITEM), None);
    }

    #[test]
    fn while_keys_are_changed_both_count_and_afterwards_the_old_one_does_not() {
        let old = PurchaseTokens::new(b"one", None).write(ADMISSION, &user("mei"), ITEM);
        assert!(PurchaseTokens::new(b"two", Some(b"one")).read(&old, &user("mei"), ITEM).is_some());
        assert!(PurchaseTokens::new(b"two", None).read(&old, &user("mei"), ITEM).is_none());
        let new = PurchaseTokens::new(b"two", Some(b"one")).write(ADMISSION, &user("mei"), ITEM);
        assert!(PurchaseTokens::new(b"two", None).read(&new, &user("mei"), ITEM).is_some());
    }
}
