//! What admins did: the logs of the two services that admins change, as one.

use std::fmt;
use std::str::FromStr;

use actix_web::HttpResponse;
use chrono::{DateTime, Utc};
use common::api::Page;
use common::api::admin::AuditLogEntry;
use common::internal::{ROLE_HEADER, USER_HEADER};
use common::problem::{Code, Problem};
use reqwest::Method;

use crate::endpoint::{Answer, Call};
use crate::error::ApiError;
use crate::forward::Service;

/// Entries of a page when the caller does not say.
const LIMIT_DEFAULT: usize = 20;
/// Most entries of a page.
const LIMIT_MAX: usize = 100;
/// Longest cursor of one service, in bytes.
const CURSOR_LENGTH_MAX: usize = 128;
/// Stands in a cursor for a log that was read to its end.
const AT_END: &str = "~";

/// Every change that an admin made, newest first. `id` counts the changes of one service: sales and orders have their
/// numbers, webhooks have theirs.
#[utoipa::path(get, path = "/api/v1/admin/audit-log", tag = "admin",
    params(("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, description = "A page of the log.", body = Page<AuditLogEntry>)))]
pub async fn list(call: Call) -> Answer {
    let limit = call.parameter::<usize>("limit")?.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::invalid("limit", format!("must be between 1 and {LIMIT_MAX}")).into());
    }
    let from = match call.parameter::<String>("cursor")? {
        Some(text) => text.parse::<Places>().map_err(|NotACursor| bad_cursor())?,
        None => Places { orders: Place::Start, notify: Place::Start },
    };
    let (orders, notify) = tokio::try_join!(
        read(&call, Service::Orders, &from.orders, limit),
        read(&call, Service::Notify, &from.notify, limit)
    )?;
    let at = |page: &Page<AuditLogEntry>| page.items.iter().map(|entry| entry.at).collect::<Vec<_>>();
    let taken = newest(&at(&orders), &at(&notify), limit);
    let (of_orders, of_notify) = (taken.iter().filter(|first| **first).count(), taken.len());
    let of_notify = of_notify - of_orders;
    let (next_orders, next_notify) = tokio::try_join!(
        after(&call, Service::Orders, &from.orders, &orders, of_orders),
        after(&call, Service::Notify, &from.notify, &notify, of_notify)
    )?;
    let next = Places { orders: next_orders, notify: next_notify };
    let next_cursor = (!next.is_end()).then(|| next.to_string());
    let (mut orders, mut notify) = (orders.items.into_iter(), notify.items.into_iter());
    let items = taken.iter().filter_map(|first| if *first { orders.next() } else { notify.next() }).collect();
    Ok(HttpResponse::Ok().json(Page { items, next_cursor }))
}

/// The newest `limit` of two logs that are each newest first: whether each comes from the first log, which also comes
/// first when both are of the same moment.
fn newest(first: &[DateTime<Utc>], second: &[DateTime<Utc>], limit: usize) -> Vec<bool> {
    let (mut first, mut second) = (first.iter().peekable(), second.iter().peekable());
    let mut taken = Vec::with_capacity(limit);
    while taken.len() < limit {
        let from_first = match (first.peek(), second.peek()) {
            (None, None) => break,
            (Some(one), Some(other)) => one >= other,
            (one, None) => one.is_some(),
            (None, Some(_)) => false,
        };
        if from_first {
            first.next()
        } else {
            second.next()
        };
        taken.push(from_first);
    }
    taken
}

/// Up to `limit` entries of one service's log.
async fn read(
    call: &Call,
    service: Service,
    place: &Place,
    limit: usize,
) -> Result<Page<AuditLogEntry>, ApiError> {
    let mut query = vec![("limit", limit.to_string())];
    match place {
        Place::Start => {}
        Place::After(cursor) => query.push(("cursor", cursor.clone())),
        Place::End => return Ok(Page { items: Vec::new(), next_cursor: None }),
    }
    let caller = call.caller()?;
    let response = call
        .upstream(service)
        .request(Method::GET, "/internal/v1/admin/audit-log", call.deadline)
        .header(USER_HEADER, caller.user.as_str())
        .header(ROLE_HEADER, caller.role.as_str())
        .query(&query)
        .send()
        .await
        .map_err(ApiError::Question)?;
    let bad = |reason| ApiError::BadAnswer { service: service.name(), reason };
    match response.status().as_u16() {
        200 => response.json().await.map_err(|error| bad(error.without_url().to_string())),
        400 if matches!(place, Place::After(_)) => Err(bad_cursor()),
        503 => Err(Code::Unavailable.into()),
        status => Err(bad(format!("status {status}"))),
    }
}

/// Where the next page begins in a log of which `taken` entries of `page` were shown. The service alone can name a place
/// within its page. Entries that are written meanwhile may make an entry appear twice, but none is left out.
async fn after(
    call: &Call,
    service: Service,
    from: &Place,
    page: &Page<AuditLogEntry>,
    taken: usize,
) -> Result<Place, ApiError> {
    if taken == page.items.len() {
        return Ok(page.next_cursor.clone().map_or(Place::End, Place::After));
    }
    if taken == 0 {
        return Ok(from.clone());
    }
    let shown = read(call, service, from, taken).await?;
    Ok(shown.next_cursor.map_or(Place::End, Place::After))
}

fn bad_cursor() -> ApiError {
    Problem::invalid("cursor", "must be a next_cursor of this listing").into()
}

/// Where a page begins in one service's log.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Start,
    /// The service's own cursor.
    After(String),
    End,
}

/// Where a page begins in both logs.
#[derive(Debug, PartialEq, Eq)]
struct Places {
    orders: Place,
    notify: Place,
}

struct NotACursor;

impl Places {
    fn is_end(&self) -> bool {
        self.orders == Place::End && self.notify == Place::End
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.orders.as_str(), self.notify.as_str())
    }
}

impl FromStr for Places {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let (orders, notify) = text.split_once('.').ok_or(NotACursor)?;
        Ok(Self { orders: orders.parse()?, notify: notify.parse()? })
    }
}

impl Place {
    fn as_str(&self) -> &str {
        match self {
            Self::Start => "",
            Self::After(cursor) => cursor,
            Self::End => AT_END,
        }
    }
}

impl FromStr for Place {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        match text {
            "" => Ok(Self::Start),
            AT_END => Ok(Self::End),
            cursor if cursor.len() <= CURSOR_LENGTH_MAX && cursor.bytes().all(plain) => {
                Ok(Self::After(cursor.to_owned()))
            }
            _ => Err(NotACursor),
        }
    }
}
