//! A way to the broker that can be made to swallow everything, or be cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::amqp::AmqpSettings;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use url::Url;

/// Passes bytes on to a broker.
pub struct Proxy {
    /// The broker's address, through this.
    pub url: SecretString,
    mute: Arc<AtomicBool>,
    cut: watch::Sender<u32>,
}

impl Proxy {
    pub async fn start(settings: &AmqpSettings) -> Self {
        let mut url: Url = settings.url.expose_secret().parse().unwrap();
        let broker = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let (mute, cut) = (Arc::<AtomicBool>::default(), watch::Sender::new(0));
        let (silence, cuts) = (mute.clone(), cut.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&broker).await else { continue };
                let (silence, mut cuts) = (silence.clone(), cuts.subscribe());
                tokio::spawn(async move {
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = copy(from_client, to_server, &silence) => {}
                        () = copy(from_server, to_client, &silence) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { url: url.to_string().into(), mute, cut }
    }

    /// From now on, whether everything is swallowed.
    pub fn mute(&self, mute: bool) {
        self.mute.store(mute, Ordering::SeqCst);
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mute: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if !mute.load(Ordering::SeqCst) && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
