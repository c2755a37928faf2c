//! The proxy between real sockets.

use std::io::ErrorKind;

use testkit::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A server that answers each line with `<name>:<line>`.
async fn echo(name: &'static str) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut talks = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            talks.spawn(async move {
                let mut piece = vec![0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut piece).await {
                    let answer = [name.as_bytes(), b":", &piece[..length]].concat();
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, tasks)
}

/// Sends `question` and reads until `count` bytes have come, or the connection ended.
async fn ask(stream: &mut TcpStream, question: &str, count: usize) -> std::io::Result<String> {
    stream.write_all(question.as_bytes()).await?;
    let mut answer = vec![0; count];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

#[tokio::test]
async fn what_passes_is_unchanged_in_both_directions() {
    let (target, _server) = echo("a").await;
    let proxy = Proxy::start(target).await.unwrap();
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, "duck", 6).await.unwrap(), "a:duck");
    assert_eq!(ask(&mut stream, "soup", 6).await.unwrap(), "a:soup");
    assert_eq!((proxy.open_connections(), proxy.traffic().accepted), (1, 1));
    drop(stream);
    eventually("the connection is forgotten", async || (proxy.open_connections() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_close_of_one_side_reaches_the_other_and_the_answer_still_comes_back() {
    let (target, _server) = echo("a").await;
    let proxy = Proxy::start(target).await.unwrap();
    let mut stream = connect(&proxy).await;
    stream.write_all(b"last words").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "a:last words");
}

#[tokio::test]
async fn a_delay_holds_every_piece_back_but_loses_none() {
    let (target, _server) = echo("a").await;
    let proxy = Proxy::start(target).await.unwrap();
    let mut stream = connect(&proxy).await;
    proxy.set(Mode::Delay { fixed_ms: 100, jitter_ms: 20 });
    let begin = std::time::Instant::now();
    assert_eq!(ask(&mut stream, "duck", 6).await.unwrap(), "a:duck");
    assert!(begin.elapsed() >= Duration::from_millis(200), "there and back");
}

#[tokio::test]
async fn a_cut_resets_open_connections_and_new_ones_until_it_is_healed() {
    let (target, _server) = echo("a").await;
    let proxy = Proxy::start(target).await.unwrap();
    let mut stream = connect(&proxy).await;
    ask(&mut stream, "duck", 6).await.unwrap();

    proxy.set(Mode::Cut);
    let error = stream.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let mut refused = connect(&proxy).await;
    assert!(ask(&mut refused, "duck", 6).await.is_err());

    proxy.set(Mode::Pass);
    assert_eq!(ask(&mut connect(&proxy).await, "duck", 6).await.unwrap(), "a:duck");
}

#[tokio::test]
async fn a_half_open_connection_is_silent_and_is_reset_when_healed() {
    let (target, _server) = echo("a").await;
    let proxy = Proxy::start(target).await.unwrap();
    let mut old = connect(&proxy).await;
    ask(&mut old, "duck", 6).await.unwrap();

    proxy.set(Mode::HalfOpen);
    let mut new = connect(&proxy).await;
    for stream in [&mut old, &mut new] {
        let silence = timeout(Duration::from_millis(200), ask(stream, "soup", 6)).await;
        assert!(silence.is_err(), "something came back: {silence:?}");
    }

    proxy.set(Mode::Pass);
    for stream in [&mut old, &mut new] {
        assert!(stream.read(&mut [0; 8]).await.is_err(), "a stream with a hole must not live on");
    }
    assert_eq!(ask(&mut connect(&proxy).await, "duck", 6).await.unwrap(), "a:duck");
}

#[tokio::test]
async fn a_lost_reply_is_a_request_that_arrived() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap()).await.unwrap();
    proxy.set(Mode::LoseReplies);
    let mut stream = connect(&proxy).await;
    stream.write_all(b"buy").await.unwrap();

    let (mut server, _) = listener.accept().await.unwrap();
    let mut request = [0; 3];
    server.read_exact(&mut request).await.unwrap();
    assert_eq!(&request, b"buy");
    server.write_all(b"done").await.unwrap();

    assert!(stream.read(&mut [0; 8]).await.is_err(), "the answer got through");
    assert_eq!(proxy.traffic().swallowed, 1);
}

#[tokio::test]
async fn only_the_reply_to_the_named_request_is_lost() {
    let (target, _server) = echo("a").await;
    let proxy = Proxy::start(target).await.unwrap();
    proxy.set(Mode::LoseReplyTo { text: "COMMIT".to_owned() });
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, "BEGIN", 7).await.unwrap(), "a:BEGIN");
    assert!(ask(&mut stream, "xCOMMITx", 10).await.is_err());
}

#[tokio::test]
async fn a_connection_is_cut_in_the_middle_of_a_message() {
    let (target, _server) = echo("a").await;
    let proxy = Proxy::start(target).await.unwrap();
    let mut stream = connect(&proxy).await;
    ask(&mut stream, "before the fault", 18).await.unwrap();

    proxy.set(Mode::CutAfter { bytes: 4 + 3 });
    stream.write_all(b"duck").await.unwrap();
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(b"a:d".starts_with(&answer), "{answer:?}"); // A reset may overtake bytes that were on their way.
}

#[tokio::test]
async fn a_fail_over_resets_and_leads_elsewhere() {
    let ((one, _one), (other, _other)) = (echo("a").await, echo("b").await);
    let proxy = Proxy::start(one).await.unwrap();
    let mut stream = connect(&proxy).await;
    ask(&mut stream, "duck", 6).await.unwrap();

    proxy.retarget(other);
    assert!(ask(&mut stream, "duck", 6).await.is_err());
    assert_eq!(ask(&mut connect(&proxy).await, "duck", 6).await.unwrap(), "b:duck");
}

#[tokio::test]
async fn a_target_that_is_away_is_a_reset() {
    let gone = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let proxy = Proxy::start(gone).await.unwrap();
    assert!(ask(&mut connect(&proxy).await, "duck", 6).await.is_err());
}
