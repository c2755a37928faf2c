//! A user's event stream, followed over every interruption.

use std::time::Duration;

use common::api::Order;
use futures_util::StreamExt as _;
use reqwest::Method;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::caller::Caller;
use crate::client_log::StreamEvent;

/// Before a stream that ended is opened again.
const PAUSE: Duration = Duration::from_millis(150);
/// A stream that is silent for so long is opened again, as if the connection had been lost.
const SILENCE_MAX: Duration = Duration::from_millis(2_500);
/// The whole life of one connection: no request lasts for ever.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// Every so many events the client drops the connection by itself.
const EVENTS_PER_CONNECTION: usize = 3;

/// Follows the user's stream from the first event on until everybody goes home.
pub async fn follow(caller: Caller, mut over: watch::Receiver<bool>) {
    let (mut connection, mut last_seq) = (0, 0);
    while !*over.borrow() {
        tokio::select! {
            _ = over.wait_for(|over| *over) => return,
            seq = one_connection(&caller, connection, last_seq) => last_seq = seq,
        }
        connection += 1;
        sleep(PAUSE).await;
    }
}

/// Reads until the connection ends; returns the number of the last event.
async fn one_connection(caller: &Caller, connection: u32, after: i64) -> i64 {
    let mut last_seq = after;
    let request = caller.authorised(Method::GET, "/api/v1/events").timeout(LIFE_MAX);
    let request = request.header("Last-Event-ID", after.to_string());
    let Ok(Ok(response)) = timeout(SILENCE_MAX, request.send()).await else { return last_seq };
    if !response.status().is_success() {
        return last_seq;
    }
    let (mut body, mut text, mut seq, mut count) = (response.bytes_stream(), String::new(), None, 0);
    while let Ok(Some(Ok(bytes))) = timeout(SILENCE_MAX, body.next()).await {
        text.push_str(&String::from_utf8_lossy(&bytes));
        while let Some((line, rest)) = text.split_once('\n') {
            if let Some(number) = line.strip_prefix("id:") {
                seq = number.trim().parse().ok();
            }
            let order = line.strip_prefix("data:").map(|data| serde_json::from_str::<Order>(data.trim()));
            if let (Some(Ok(order)), Some(seq)) = (order, seq) {
                last_seq = seq;
                count += 1;
                caller.log().write_event(StreamEvent {
                    user: caller.user.clone(),
                    connection,
                    after,
                    at: caller.log().now(),
                    seq,
                    rid: order.id,
                    state: order.status,
                    version: order.version,
                });
            }
            text = rest.to_owned();
        }
        if count >= EVENTS_PER_CONNECTION {
            break;
        }
    }
    last_seq
}
