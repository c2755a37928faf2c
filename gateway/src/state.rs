//! The parts of the process that handlers share.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::HeaderMap;
use metrics::Counter;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::attempts::Attempts;
use crate::blocks::Blocks;
use crate::catalogue::Catalogue;
use crate::challenge::Challenges;
use crate::downstream::Downstream;
use crate::edge::Origins;
use crate::known_ids::KnownIds;
use crate::limits::Limits;
use crate::line::Lines;
use crate::listing::Listing;
use crate::openapi::Documents;
use crate::places::Places;
use crate::poll::{BlocksPoller, SalesPoller};
use crate::refusals::Refusals;
use crate::retries::Retries;
use crate::sale_cache::SaleCache;
use crate::settings::CidrList;
use crate::store::Store;
use crate::token::Tokens;
use crate::velocity::Velocity;
use crate::wechat::Wechat;

/// The parts, put together by [`crate::App::build`].
pub struct State {
    /// Access tokens.
    pub tokens: Tokens,
    /// Token buckets.
    pub limits: Limits,
    /// Whose X-Forwarded-For is believed.
    pub trusted_proxies: CidrList,
    /// Origins whose scripts may call.
    pub origins: Origins,
    /// What stock-service last said.
    pub catalogue: Arc<Catalogue>,
    /// What order-service last said of sales.
    pub listing: Arc<Listing>,
    /// Asks order-service for the sales.
    pub sales: Arc<SalesPoller>,
    /// The queue of each item.
    pub admission: Admission,
    /// Who and what is blocked.
    pub blocks: Arc<Blocks>,
    /// Asks order-service for the block list.
    pub block_list: Arc<BlocksPoller>,
    /// Finds the orders of retries that would be refused.
    pub retries: Retries,
    /// How many orders, accounts and devices come from one account or device.
    pub velocity: Velocity,
    /// Attempts in flight, and accepted ones.
    pub attempts: Attempts,
    /// Every sale and item there is.
    pub known_ids: Arc<KnownIds>,
    /// Sales that the listing does not have.
    pub sale_cache: SaleCache,
    /// What the replicas share, where a Redis is set up.
    pub store: Option<Store>,
    /// Work before a place or an order.
    pub challenges: Challenges,
    /// Waiting rooms.
    pub lines: Lines,
    /// stock-service.
    pub stock: Downstream,
    /// order-service.
    pub orders: Downstream,
    /// notify-service.
    pub notify: Downstream,
    /// Logging in with WeChat, where it is set up.
    pub wechat: Option<Wechat>,
    /// Counts orders answered with 202.
    pub accepted: Counter,
    /// Counts what was refused.
    pub refusals: Refusals,
    /// Places for what waits.
    pub places: Places,
    /// What describes the API.
    pub documents: Documents,
    /// The deadline of a customer's request.
    pub timeout: Duration,
    /// The deadline of an admin's request.
    pub admin_timeout: Duration,
    /// Most time for a request body.
    pub body_timeout: Duration,
    /// Ends what waits: streams and long polls.
    pub closing: CancellationToken,
}

impl State {
    /// The client's address.
    pub fn client_ip(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        crate::client_ip::client_ip(peer, headers, &self.trusted_proxies)
    }
}
