//! A client of server-sent events, as a browser reads them.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;
use tokio::time::timeout;

/// Generous: a passing test never waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// An open stream.
pub struct SseClient {
    response: Response,
    buffer: String,
    /// The last `id:` that was seen, as a browser keeps it.
    pub last_event_id: String,
    /// The last `retry:` that was seen.
    pub retry_ms: u64,
}

/// One event with data.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub id: i64,
    pub kind: String,
    pub data: Value,
}

impl SseClient {
    /// Opens the stream and reads where it begins.
    pub async fn open(request: RequestBuilder) -> Self {
        let response = timeout(PATIENCE, request.send()).await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut client = Self { response, buffer: String::new(), last_event_id: String::new(), retry_ms: 0 };
        let first = client.block().await.expect("a stream begins with where it begins");
        assert!(client.apply(&first).is_none(), "{first}");
        client
    }

    /// The next event; `None`: the stream has ended.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            let block = self.block().await?;
            if let Some(told) = self.apply(&block) {
                return Some(told);
            }
        }
    }

    /// The next `count` events.
    pub async fn take(&mut self, count: usize) -> Vec<Told> {
        let mut told = Vec::new();
        while told.len() < count {
            told.push(self.next().await.expect("the stream goes on"));
        }
        told
    }

    /// Whether nothing is told within a while.
    pub async fn is_silent(&mut self) -> bool {
        timeout(Duration::from_millis(1_500), self.next()).await.is_err()
    }

    /// The next comment or event as it is; `None`: the stream has ended.
    pub async fn block(&mut self) -> Option<String> {
        timeout(PATIENCE, self.read_block()).await.expect("something is sent")
    }

    /// Cancel-safe.
    async fn read_block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.buffer = rest;
                return Some(block);
            }
            let chunk = self.response.chunk().await.ok().flatten()?;
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    fn apply(&mut self, block: &str) -> Option<Told> {
        let (mut kind, mut data) = ("message".to_owned(), None);
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("id", id)) => self.last_event_id = id.to_owned(),
                Some(("retry", ms)) => self.retry_ms = ms.parse().unwrap(),
                Some(("event", event)) => kind = event.to_owned(),
                Some(("data", text)) => data = Some(serde_json::from_str(text).unwrap()),
                Some(("", _comment)) => {}
                other => panic!("not a line of a stream: {other:?}"),
            }
        }
        let id = self.last_event_id.parse().unwrap();
        data.map(|data| Told { id, kind, data })
    }
}
