//! A receiver of webhooks: another company's server, behaving as the test says.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use testkit::eventually;

/// How to answer one request.
#[derive(Debug, Clone)]
pub enum Answer {
    Status(u16),
    /// 302 to this address.
    Redirect(String),
    /// 200, but only after this long.
    After(Duration),
    /// 200 with a body that never ends.
    Endless,
    /// 200 with a body that comes a byte at a time.
    Dripping,
}

/// One request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub path: String,
    pub id: String,
    pub timestamp: String,
    pub signature: String,
    pub body: String,
}

#[derive(Default)]
struct State {
    received: Vec<Received>,
    /// Answers still to be given, by path; then 200.
    script: HashMap<String, VecDeque<Answer>>,
    /// What a path answers when its script is over.
    always: HashMap<String, Answer>,
}

pub struct Receiver {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    handle: ServerHandle,
}

impl Receiver {
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = web::Data::from(state.clone());
        let server =
            HttpServer::new(move || App::new().app_data(shared.clone()).default_service(web::to(receive)))
                .workers(1)
                .disable_signals()
                .bind("127.0.0.1:0")
                .unwrap();
        let address = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { address, state, handle }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The next requests to `path` get these answers, then 200.
    pub fn answers(&self, path: &str, answers: &[Answer]) {
        self.state.lock().unwrap().script.insert(path.to_owned(), answers.iter().cloned().collect());
    }

    /// Every request to `path` gets this answer.
    pub fn always(&self, path: &str, answer: Answer) {
        self.state.lock().unwrap().always.insert(path.to_owned(), answer);
    }

    /// What came to `path`, in order.
    pub fn received(&self, path: &str) -> Vec<Received> {
        let state = self.state.lock().unwrap();
        state.received.iter().filter(|received| received.path == path).cloned().collect()
    }

    /// Waits for `count` requests to `path`.
    pub async fn wait_for(&self, path: &str, count: usize) -> Vec<Received> {
        eventually(&format!("{count} requests to {path}"), async || {
            Some(self.received(path)).filter(|received| received.len() >= count)
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

impl Received {
    /// Checks the signature with an HMAC written out here (RFC 2104), not with the service's own.
    pub fn assert_signed_with(&self, secret: &str) {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let content = format!("{}.{}.{}", self.id, self.timestamp, self.body);
        let expected = format!("v1,{}", STANDARD.encode(hmac_sha256(&key, content.as_bytes())));
        assert_eq!(self.signature, expected);
    }
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    assert!(key.len() <= 64, "a longer key would be hashed first");
    let pad = |with: u8| (0..64).map(|i| key.get(i).copied().unwrap_or(0) ^ with).collect::<Vec<u8>>();
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

async fn receive(state: web::Data<Mutex<State>>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let header = |name: &str| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let path = request.path().to_owned();
    let answer = {
        let mut state = state.lock().unwrap();
        state.received.push(Received {
            path: path.clone(),
            id: header("webhook-id"),
            timestamp: header("webhook-timestamp"),
            signature: header("webhook-signature"),
            body: String::from_utf8(body.to_vec()).unwrap(),
        });
        let scripted = state.script.get_mut(&path).and_then(VecDeque::pop_front);
        scripted.or_else(|| state.always.get(&path).cloned()).unwrap_or(Answer::Status(200))
    };
    match answer {
        Answer::Status(status) => HttpResponse::build(StatusCode::from_u16(status).unwrap()).finish(),
        Answer::Redirect(to) => HttpResponse::Found().insert_header(("location", to)).finish(),
        Answer::After(pause) => {
            tokio::time::sleep(pause).await;
            HttpResponse::Ok().finish()
        }
        Answer::Endless => {
            let chunk = Ok::<_, actix_web::Error>(Bytes::from(vec![b'x'; 8_192]));
            HttpResponse::Ok().streaming(futures_util::stream::repeat_with(move || {
                chunk.as_ref().map(Bytes::clone).map_err(|_| actix_web::error::ErrorInternalServerError(""))
            }))
        }
        Answer::Dripping => HttpResponse::Ok().streaming(futures_util::stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Some((Ok::<_, actix_web::Error>(Bytes::from_static(b"x")), ()))
        })),
    }
}
