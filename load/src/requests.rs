//! What arrives: buyers, browsers, bots, and buyers who come too late.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::ValueEnum;
use common::ids::{ItemId, SaleId};

/// Accounts that all bots share.
const BOT_ACCOUNTS: u64 = 50;
/// Shares of a mix add up to this.
const SHARES: u64 = 100;
/// Has no factor in common with [`SHARES`], so that kinds of requests alternate instead of coming in blocks.
const STRIDE: u64 = 61;
/// The body of every order.
const BODY: &str = "{\"quantity\":1}";

/// Who comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mix {
    /// Only buyers, each with an account of their own, of an item that does not run out.
    Buyers,
    /// Only people who look at the sales.
    Browsers,
    /// Only programs, which order again and again with few accounts.
    Bots,
    /// Only buyers of an item that is sold out.
    SoldOut,
    /// 30 % buyers, 30 % browsers, 20 % bots, 20 % sold out.
    All,
}

impl Mix {
    /// In percent: buyers, browsers, bots; the rest comes too late.
    fn shares(self) -> [u64; 3] {
        match self {
            Self::Buyers => [100, 0, 0],
            Self::Browsers => [0, 100, 0],
            Self::Bots => [0, 0, 100],
            Self::SoldOut => [0, 0, 0],
            Self::All => [30, 30, 20],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Buyer,
    Browser,
    Bot,
    Late,
}

/// Makes the requests of a run, each with a key of its own.
#[derive(Debug)]
pub struct Requests {
    /// Who comes.
    pub mix: Mix,
    /// The `Host` header.
    pub host: String,
    /// The sale.
    pub sale: SaleId,
    /// An item that does not run out.
    pub item: ItemId,
    /// An item that has.
    pub sold_out: ItemId,
    /// One token for each buyer.
    pub tokens: Arc<Vec<String>>,
    /// What the keys of this run begin with.
    pub run: String,
    /// The next request's number.
    pub turn: AtomicU64,
}

impl Requests {
    /// Requests of the same sale by others, with keys that begin with `run`, to `host`.
    pub fn with(&self, mix: Mix, run: String, host: String) -> Self {
        let (sale, item, sold_out) = (self.sale, self.item, self.sold_out);
        Self { mix, host, sale, item, sold_out, tokens: self.tokens.clone(), run, turn: AtomicU64::new(0) }
    }

    /// The same by the first `count` buyers only.
    #[must_use]
    pub fn of_the_first(self, count: usize) -> Self {
        Self { tokens: Arc::new(self.tokens.iter().take(count).cloned().collect()), ..self }
    }

    /// Writes the next request.
    pub fn next(&self, into: &mut Vec<u8>) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        into.clear();
        // Writing into memory does not fail.
        let _ = match self.kind(turn) {
            Kind::Buyer => self.order(into, turn, self.item, turn),
            Kind::Bot => self.order(into, turn, self.item, turn % BOT_ACCOUNTS),
            Kind::Late => self.order(into, turn, self.sold_out, turn),
            Kind::Browser => self.browse(into, turn),
        };
    }

    fn kind(&self, turn: u64) -> Kind {
        let [buyers, browsers, bots] = self.mix.shares();
        match turn.wrapping_mul(STRIDE) % SHARES {
            share if share < buyers => Kind::Buyer,
            share if share < buyers + browsers => Kind::Browser,
            share if share < buyers + browsers + bots => Kind::Bot,
            _ => Kind::Late,
        }
    }

    fn order(&self, into: &mut Vec<u8>, turn: u64, item: ItemId, account: u64) -> std::io::Result<()> {
        let (host, run, length) = (&self.host, &self.run, BODY.len());
        // Fewer than 2^32 accounts.
        let account = usize::try_from(account).unwrap_or(usize::MAX) % self.tokens.len().max(1);
        let token = self.tokens.get(account).map_or("", String::as_str);
        write!(
            into,
            "POST /api/v1/items/{item}/orders HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\
             idempotency-key: {run}-{turn}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{BODY}"
        )
    }

    fn browse(&self, into: &mut Vec<u8>, turn: u64) -> std::io::Result<()> {
        let host = &self.host;
        // By a bit that the stride does not fix.
        if (turn / SHARES).is_multiple_of(2) {
            write!(into, "GET /api/v1/sales HTTP/1.1\r\nhost: {host}\r\n\r\n")
        } else {
            write!(into, "GET /api/v1/sales/{} HTTP/1.1\r\nhost: {host}\r\n\r\n", self.sale)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use uuid::Uuid;

    use super::*;

    fn requests(mix: Mix) -> Requests {
        Requests {
            mix,
            host: "shop".to_owned(),
            sale: SaleId(Uuid::from_u128(1)),
            item: ItemId(Uuid::from_u128(2)),
            sold_out: ItemId(Uuid::from_u128(3)),
            tokens: Arc::new((0..1_000).map(|n| format!("token-{n}")).collect()),
            run: "run".to_owned(),
            turn: AtomicU64::new(0),
        }
    }

    fn written(requests: &Requests, count: usize) -> Vec<String> {
        let mut buffer = Vec::new();
        let mut next = || {
            requests.next(&mut buffer);
            String::from_utf8(buffer.clone()).unwrap()
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn a_mix_has_the_shares_that_it_says() {
        let requests = requests(Mix::All);
        let all = written(&requests, 1_000);
        let count = |what: &str| all.iter().filter(|request| request.starts_with(what)).count();
        assert_eq!(count("GET"), 300);
        assert_eq!(count(&format!("POST /api/v1/items/{}", requests.item)), 500);
        assert_eq!(count(&format!("POST /api/v1/items/{}", requests.sold_out)), 200);
        assert!(all.windows(20).all(|few| few.iter().any(|request| request.starts_with("GET"))));
    }

    #[test]
    fn buyers_have_accounts_of_their_own_bots_share_few_and_no_key_comes_twice() {
        let accounts = |mix| {
            let all = written(&requests(mix), 1_000);
            let header = |name: &str| -> HashSet<String> {
                let of = |request: &String| {
                    request.lines().find(|line| line.starts_with(name)).unwrap().to_owned()
                };
                all.iter().map(of).collect()
            };
            assert_eq!(header("idempotency-key").len(), 1_000);
            header("authorization").len()
        };
        assert_eq!(accounts(Mix::Buyers), 1_000);
        assert_eq!(accounts(Mix::SoldOut), 1_000);
        assert_eq!(accounts(Mix::Bots), 50);
    }
}
