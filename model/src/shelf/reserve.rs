//! `reserve.lua`

use common::api::inventory::AdminHold;
use common::messages::order::Units;
use stock_service::stock::{Decision, Refusal, Shut};

use super::{Hold, Item, OrderNo, ReopenAs, Server, Shelf, UserNo};

/// One request of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// The order to be.
    pub order: OrderNo,
    /// Who buys.
    pub user: UserNo,
    /// Units wanted.
    pub quantity: i64,
    /// When nobody waits any more.
    pub deadline_ms: i64,
}

impl Shelf {
    /// Decides a batch in order of arrival.
    ///
    /// # Errors
    /// The gate is not open; nothing was done.
    pub fn reserve(
        &mut self,
        server: Server,
        epoch_min: i64,
        attempts_max: i64,
        wishes: &[Wish],
    ) -> Result<Vec<Decision>, Shut> {
        let mut item = self.gate(server, epoch_min)?;
        let mut decisions = Vec::with_capacity(wishes.len());
        // What was known before the batch is as settled as it was then; what the batch adds is not.
        for wish in wishes {
            let decision = match self.holds.get(&wish.order) {
                Some(hold) if (hold.quantity, hold.user) != (wish.quantity, wish.user) => {
                    Decision::Refused(Refusal::Mismatch)
                }
                Some(hold) => Decision::Known {
                    settled: !self.unsettled.contains_key(&wish.order),
                    reserved_ms: hold.reserved_ms,
                },
                None => match self.refusal(server, &item, attempts_max, wish) {
                    Some(refusal) => Decision::Refused(refusal),
                    None => self.grant(server, &mut item, wish),
                },
            };
            decisions.push(decision);
        }
        self.item = Some(item);
        Ok(decisions)
    }

    fn grant(&mut self, server: Server, item: &mut Item, wish: &Wish) -> Decision {
        item.available -= wish.quantity;
        *self.buyers.entry(wish.user).or_default() += wish.quantity;
        *self.attempts.entry(wish.user).or_default() += 1;
        let Wish { quantity, user, .. } = *wish;
        let hold = Hold { quantity, units: Units::Held, version: 0, reserved_ms: server.now_ms, user };
        self.holds.insert(wish.order, hold);
        self.unsettled.insert(wish.order, server.now_ms);
        Decision::Granted { left: item.available, reserved_ms: server.now_ms }
    }

    fn refusal(&self, server: Server, item: &Item, attempts_max: i64, wish: &Wish) -> Option<Refusal> {
        let (bought, attempts) = (self.buyers.get(&wish.user), self.attempts.get(&wish.user));
        if server.now_ms > wish.deadline_ms {
            Some(Refusal::DeadlinePassed)
        } else if let Some(refusal) = closed_for_all(item, server.now_ms) {
            Some(refusal)
        } else if bought.copied().unwrap_or(0) + wish.quantity > item.definition.limit {
            Some(Refusal::OverLimit)
        } else if attempts.copied().unwrap_or(0) >= attempts_max {
            Some(Refusal::TooManyAttempts)
        } else if let Some(refusal) = lease_refusal(item, server.now_ms) {
            Some(refusal)
        } else if item.available < wish.quantity {
            Some(Refusal::NotEnough)
        } else {
            None
        }
    }
}

fn closed_for_all(item: &Item, now_ms: i64) -> Option<Refusal> {
    let definition = &item.definition;
    if definition.state == AdminHold::Ended || now_ms >= definition.ends_ms {
        Some(Refusal::Ended)
    } else if now_ms < definition.starts_ms {
        Some(Refusal::NotStarted)
    } else if definition.state != AdminHold::None {
        Some(Refusal::Paused)
    } else {
        None
    }
}

fn lease_refusal(item: &Item, now_ms: i64) -> Option<Refusal> {
    match item.reopen {
        Some((until_ms, shown_as)) if now_ms < until_ms => Some(match shown_as {
            ReopenAs::Paused => Refusal::Paused,
            ReopenAs::Loading => Refusal::Reopening,
            ReopenAs::SoldOut => Refusal::NotEnough,
        }),
        Some(_) | None => None,
    }
}
