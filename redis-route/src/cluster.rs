//! Who says to own which slots: the texts of `CLUSTER NODES`.
//!
//! Servers that were cut off answer with old news. So every server is asked, and of two that claim a slot the one with
//! the newer configuration epoch has it, as among the servers themselves.

use crate::{Address, SLOTS};

/// The owner of each slot.
pub(crate) type Owners = Vec<Option<Address>>;

/// A primary and the slots that one server says are its.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    address: Address,
    epoch: u64,
    ranges: Vec<(usize, usize)>,
}

/// The owners that follow from these answers, each with the host that it came from.
pub(crate) fn owners(answers: &[(String, String)]) -> Owners {
    let mut owners: Vec<Option<(u64, Address)>> = vec![None; SLOTS];
    for (host, text) in answers {
        for claim in text.lines().filter_map(|line| claim(host, line)) {
            for (first, last) in &claim.ranges {
                for owner in owners.iter_mut().take(last + 1).skip(*first) {
                    if owner.as_ref().is_none_or(|(epoch, _)| *epoch < claim.epoch) {
                        *owner = Some((claim.epoch, claim.address.clone()));
                    }
                }
            }
        }
    }
    owners.into_iter().map(|owner| owner.map(|(_, address)| address)).collect()
}

/// `id host:port@bus[,name] flags primary ping pong epoch link slot..`; `None` unless it is a primary with slots.
fn claim(asked: &str, line: &str) -> Option<Claim> {
    let mut fields = line.split_ascii_whitespace();
    let (address, flags) = (fields.nth(1)?, fields.next()?);
    if !flags.split(',').any(|flag| flag == "master") {
        return None;
    }
    let epoch = fields.nth(3)?.parse().ok()?;
    let ranges: Vec<_> = fields.skip(1).filter_map(range).collect();
    let mut address: Address = address.split('@').next()?.parse().ok()?;
    if address.host.is_empty() {
        // A server that has met nobody does not know its own.
        address.host = asked.to_owned();
    }
    (!ranges.is_empty()).then_some(Claim { address, epoch, ranges })
}

/// `7` or `0-5460`; slots on their way, such as `[93->-id]`, still belong to whom they belong.
fn range(text: &str) -> Option<(usize, usize)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < SLOTS).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "\
a1 10.0.0.1:7001@17001 myself,master - 0 0 1 connected 0-5460 [93->-b2]
b2 10.0.0.2:7002@17002,name master - 0 0 2 connected 5461-16382 16383
c3 10.0.0.3:7003@17003 slave a1 0 0 1 connected";
    const AFTER: &str = "\
a1 10.0.0.1:7001@17001 master,fail - 0 0 1 disconnected
b2 10.0.0.2:7002@17002 myself,master - 0 0 2 connected 5461-16383
c3 10.0.0.3:7003@17003 master - 0 0 7 connected 0-5460";

    fn owner(answers: &[(&str, &str)], slot: usize) -> Option<String> {
        let answers: Vec<_> =
            answers.iter().map(|(host, text)| ((*host).to_owned(), (*text).to_owned())).collect();
        owners(&answers)[slot].as_ref().map(ToString::to_string)
    }

    #[test]
    fn a_slot_has_the_owner_that_is_said() {
        assert_eq!(owner(&[("x", BEFORE)], 93).as_deref(), Some("10.0.0.1:7001"));
        assert_eq!(owner(&[("x", BEFORE)], 16_383).as_deref(), Some("10.0.0.2:7002"));
        assert_eq!(owner(&[("x", "")], 0), None);
        assert_eq!(
            owner(&[("x", "a :7001@1 myself,master - 0 0 0 connected 5")], 5).as_deref(),
            Some("x:7001")
        );
    }

    #[test]
    fn the_newer_epoch_wins_in_whatever_order_servers_answer() {
        for answers in [[("x", BEFORE), ("x", AFTER)], [("x", AFTER), ("x", BEFORE)]] {
            assert_eq!(owner(&answers, 0).as_deref(), Some("10.0.0.3:7003"));
            assert_eq!(owner(&answers, 6_000).as_deref(), Some("10.0.0.2:7002"));
        }
    }
}
