//! Batches in order, one bad event alone, and nothing acknowledged that was not handled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::amqp::{Outgoing, RetryLater, Source, Subscription, Verdict, consume};
use common::topology::Exchange;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{Broker, Seen, envelope, far, message, numbers};

#[tokio::test(flavor = "multi_thread")]
async fn events_are_handled_in_order_across_messages() {
    let broker = Broker::start().await;
    for first in (0..300).step_by(3) {
        broker.publish(first..first + 3).await;
    }
    let seen = Seen::default();
    let noted = seen.clone();
    broker.consume(move |batch| {
        noted.add(&batch);
        let verdicts = vec![Verdict::Done; batch.len()];
        async move { Ok(verdicts) }
    });
    seen.eventually(0..300).await;
    broker.eventually_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_travels_together_up_to_the_bound() {
    let broker = Broker::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let (sizes, size_sender) = {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        (receiver, sender)
    };
    let mut sizes = sizes;
    let handler_gate = gate.clone();
    let subscription =
        Subscription { batch_max: 8, ..broker.subscription(Source::Work(broker.queue.clone())) };
    consume(&broker.settings, subscription, numbers(), &broker.tasks, move |batch| {
        size_sender.send(batch.len()).unwrap();
        let gate = handler_gate.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(vec![Verdict::Done; batch.len()])
        }
    });
    broker.publish([0]).await;
    assert_eq!(sizes.recv().await, Some(1), "alone when idle");
    for number in 1..=20 {
        broker.publish([number]).await;
    }
    // All of them are in the client's hands once none is ready on the queue.
    testkit::eventually("delivered", async || {
        (broker.length(&broker.queue.name).await == Some(0)).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    gate.add_permits(100);
    assert_eq!((sizes.recv().await, sizes.recv().await, sizes.recv().await), (Some(8), Some(8), Some(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_hands_out_no_more_than_the_prefetch() {
    let broker = Broker::start().await;
    for number in 0..10 {
        broker.publish([number]).await;
    }
    let subscription =
        Subscription { prefetch: 3, ..broker.subscription(Source::Work(broker.queue.clone())) };
    consume(&broker.settings, subscription, numbers(), &broker.tasks, |_| std::future::pending());
    testkit::eventually("three in hand", async || {
        (broker.length(&broker.queue.name).await == Some(7)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_can_never_work_is_parked_alone() {
    let broker = Broker::start().await;
    let sent = envelope([1, 2, 3]);
    broker.publisher.publish(message(sent.clone()), far()).await.unwrap();
    let seen = Seen::default();
    let noted = seen.clone();
    broker.consume(move |batch| {
        noted.add(&batch);
        let verdict = |number| match number {
            2 => Verdict::Park("no such item".to_owned()),
            _ => Verdict::Done,
        };
        let verdicts = batch.iter().map(|incoming| verdict(incoming.event.data)).collect();
        async move { Ok(verdicts) }
    });
    let parked = broker.parked(1).await.remove(0);
    assert_eq!(parked.reason.as_deref(), Some("no such item"));
    assert_eq!(parked.queue.as_deref(), Some("stock-service.sales"));
    assert_eq!(parked.message_id.unwrap().to_string(), sent["events"][1]["event_id"]);
    let body: Value = serde_json::from_slice(&parked.body).unwrap();
    let expected = json!({ "events": [sent["events"][1]] });
    assert_eq!(body["events"], expected["events"]);
    assert_eq!(
        (&body["id"], &body["type"], &body["producer"]),
        (&sent["id"], &sent["type"], &sent["producer"])
    );

    broker.eventually_empty().await;
    assert_eq!(seen.numbers(), [1, 2, 3], "handled once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_parked_and_its_neighbours_are_handled() {
    let broker = Broker::start().await;
    let mut broken = envelope([1, 2, 3]);
    broken["events"][1]["number"] = json!("two");
    let mut unknown = envelope([4]);
    unknown["type"] = json!("sale.tested.v99");
    let raw = |body: &[u8]| Outgoing { body: body.to_vec(), ..message(Value::Null) };
    for outgoing in [
        message(broken.clone()),
        message(unknown.clone()),
        message(envelope([])),
        message(envelope(0..257)),
        raw(b"{\"id\":"),
        raw(b""),
        raw(b"\xff\xfe"),
        message(json!([1, 2])),
    ] {
        broker.publisher.publish(outgoing, far()).await.unwrap();
    }
    broker.publish([5]).await;

    let seen = Seen::default();
    let noted = seen.clone();
    broker.consume(move |batch| {
        noted.add(&batch);
        let verdicts = vec![Verdict::Done; batch.len()];
        async move { Ok(verdicts) }
    });
    seen.eventually([1, 3, 5]).await;
    let parked = broker.parked(8).await;
    let bodies: Vec<&[u8]> = parked.iter().map(|raw| raw.body.as_slice()).collect();
    for whole in [unknown.to_string().as_bytes(), b"{\"id\":", b"", b"\xff\xfe", b"[1,2]"] {
        assert!(bodies.contains(&whole), "{} is parked as it came", String::from_utf8_lossy(whole));
    }
    let single =
        parked.iter().find(|raw| raw.message_id.unwrap().to_string() == broken["events"][1]["event_id"]);
    let single: Value = serde_json::from_slice(&single.unwrap().body).unwrap();
    assert_eq!(single["events"], json!([broken["events"][1]]));
    assert!(parked.iter().all(|raw| raw.reason.is_some() && raw.queue.is_some()));
    broker.eventually_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_in_place_keeps_the_order() {
    let broker = Broker::start().await;
    for number in 0..20 {
        broker.publish([number]).await;
    }
    let (seen, failures) = (Seen::default(), Arc::new(AtomicU32::new(0)));
    let (noted, counted) = (seen.clone(), failures.clone());
    let subscription =
        Subscription { batch_max: 4, ..broker.subscription(Source::Work(broker.queue.clone())) };
    consume(&broker.settings, subscription, numbers(), &broker.tasks, move |batch| {
        let redelivered = batch.iter().any(|incoming| incoming.redelivered);
        // Every other call fails, as if the store came and went.
        let fails = counted.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        if !fails {
            noted.add(&batch);
        }
        let verdicts = vec![Verdict::Done; batch.len()];
        async move {
            assert!(!redelivered, "a retry is no redelivery");
            if fails { Err(RetryLater(anyhow::anyhow!("store away"))) } else { Ok(verdicts) }
        }
    });
    seen.eventually(0..20).await;
    assert!(failures.load(Ordering::Relaxed) >= 10);
    broker.eventually_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crashing_handler_held_is_delivered_again() {
    let broker = Broker::start().await;
    broker.publish([1, 2]).await;
    let (seen, calls) = (Seen::default(), Arc::new(AtomicU32::new(0)));
    let (noted, counted) = (seen.clone(), calls.clone());
    broker.consume(move |batch| {
        let call = counted.fetch_add(1, Ordering::Relaxed);
        assert!(call > 0, "the first call panics before it is a future");
        let noted = noted.clone();
        async move {
            assert!(call > 1, "the second one in the middle");
            assert!(batch.iter().all(|incoming| incoming.redelivered));
            noted.add(&batch);
            Ok(vec![Verdict::Done; batch.len()])
        }
    });
    seen.eventually([1, 2]).await;
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    broker.eventually_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_the_batch_in_hand_and_leaves_the_rest() {
    let broker = Broker::start().await;
    for number in 0..5 {
        broker.publish([number]).await;
    }
    let (started, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (handler_started, handler_gate) = (started.clone(), gate.clone());
    let subscription =
        Subscription { batch_max: 1, ..broker.subscription(Source::Work(broker.queue.clone())) };
    consume(&broker.settings, subscription, numbers(), &broker.tasks, move |batch| {
        let (started, gate) = (handler_started.clone(), handler_gate.clone());
        async move {
            started.add_permits(1);
            gate.acquire().await.unwrap().forget();
            Ok(vec![Verdict::Done; batch.len()])
        }
    });
    started.acquire().await.unwrap().forget();

    let tasks = broker.tasks.clone();
    let finished = tokio::spawn(async move { tasks.finish(Duration::from_secs(30)).await });
    testkit::eventually("told to stop", async || broker.tasks.stop_token().is_cancelled().then_some(()))
        .await;
    assert!(!finished.is_finished(), "the batch in hand is worked on");
    gate.add_permits(1);
    finished.await.unwrap().unwrap();
    testkit::eventually("four messages are left", async || {
        (broker.vhost.queue_depths().await.get(&broker.queue.name) == Some(&4)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_a_consumer_that_waits_to_retry() {
    let broker = Broker::start().await;
    broker.publish([1]).await;
    let called = Arc::new(Semaphore::new(0));
    let handler_called = called.clone();
    broker.consume(move |_| {
        handler_called.add_permits(1);
        async { Err(RetryLater(anyhow::anyhow!("store away"))) }
    });
    called.acquire().await.unwrap().forget();
    broker.tasks.finish(Duration::from_secs(30)).await.unwrap();
    testkit::eventually("the message is left", async || {
        (broker.vhost.queue_depths().await.get(&broker.queue.name) == Some(&1)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_up_queue_hears_what_is_published_while_it_listens() {
    let broker = Broker::start().await;
    let seen = Seen::default();
    let noted = seen.clone();
    let source = Source::Wakeup { exchange: Exchange::Sale, pattern: "sale.#".to_owned() };
    consume(&broker.settings, broker.subscription(source), numbers(), &broker.tasks, move |batch| {
        noted.add(&batch);
        // Nothing to park: hints may be lost.
        let verdicts = vec![Verdict::Park("not needed".to_owned()); batch.len()];
        async move { Ok(verdicts) }
    });
    crate::support::eventually_true("listening", || broker.health.is_ready()).await;
    broker.publish([7]).await;
    seen.eventually([7]).await;
    assert_eq!(broker.length(&broker.queue.name).await, Some(1), "the work queue has its own copy");
    assert_eq!(broker.length(&broker.queue.dead_name()).await, Some(0));
}
