//! The receiver of a webhook: takes deliveries, now and then not, and keeps them all.

use std::sync::Arc;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use sha2::Sha256;

use crate::evidence::Received;

/// Every so many attempts one is refused.
const REFUSED_EVERY: usize = 4;

/// A receiver on a loopback port; ends with this value.
#[derive(Debug)]
pub struct Receiver {
    /// Where it is.
    pub url: String,
    /// What the webhook's deliveries are signed by.
    pub secret: String,
    seen: Seen,
    server: ServerHandle,
}

#[derive(Debug, Clone)]
struct Seen {
    key: Arc<Vec<u8>>,
    attempts: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    /// Starts one.
    ///
    /// # Errors
    /// No port can be bound.
    pub fn start() -> anyhow::Result<Self> {
        let key: [u8; 32] = rand::random();
        let secret = format!("whsec_{}", STANDARD.encode(key));
        let seen = Seen { key: Arc::new(key.to_vec()), attempts: Arc::default() };
        let data = seen.clone();
        let server = HttpServer::new(move || {
            App::new().app_data(web::Data::new(data.clone())).route("/", web::post().to(receive))
        });
        let server = server.workers(1).disable_signals().bind(("127.0.0.1", 0))?;
        let port = server.addrs().first().map_or(0, std::net::SocketAddr::port);
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(Self { url: format!("http://127.0.0.1:{port}/"), secret, seen, server: handle })
    }

    /// Everything that came so far.
    pub fn received(&self) -> Vec<Received> {
        self.seen.attempts.lock().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Stops when it is polled the next time; nobody waits for it.
        tokio::spawn(self.server.stop(false));
    }
}

async fn receive(request: HttpRequest, body: String, seen: web::Data<Seen>) -> HttpResponse {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let id = header("webhook-id").to_owned();
    let signed = format!("{id}.{}.{body}", header("webhook-timestamp"));
    let expected = Hmac::<Sha256>::new_from_slice(&seen.key).map(|mut mac| {
        mac.update(signed.as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    });
    let genuine = expected.is_ok_and(|expected| expected == header("webhook-signature"));
    let mut attempts = seen.attempts.lock();
    let answered = if attempts.len() % REFUSED_EVERY == 1 { 500 } else { 204 };
    attempts.push(Received { id, body, answered, genuine });
    if answered == 204 {
        HttpResponse::NoContent().finish()
    } else {
        HttpResponse::InternalServerError().finish()
    }
}
