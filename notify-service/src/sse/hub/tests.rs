//! The moments that a test with a database cannot hit.

use super::*;

fn settings() -> SseSettings {
    SseSettings {
        per_user_max: 3,
        streams_max: 10,
        buffer_max: 4,
        stall_ms: 50,
        ping_ms: 15_000,
        retry_min_ms: 1,
        retry_max_ms: 1,
        min_interval_ms: 0,
        sweep_ms: 1_000,
    }
}

fn ann() -> UserId {
    UserId::try_from("ann".to_owned()).unwrap()
}

fn events(seqs: std::ops::RangeInclusive<i64>) -> Vec<StoredEvent> {
    seqs.map(|seq| StoredEvent { user_id: "ann".to_owned(), seq, data: "{}".to_owned() }).collect()
}

fn heard(frames: &mut Receiver<Bytes>) -> Vec<String> {
    std::iter::from_fn(|| frames.try_recv().ok())
        .map(|frame| String::from_utf8(frame.to_vec()).unwrap().lines().nth(1).unwrap().to_owned())
        .collect()
}

/// The next look, as soon as it is due.
async fn next_look(hub: &Hub) -> Look {
    loop {
        hub.work().await;
        if let Some(look) = hub.looks().pop() {
            return look;
        }
    }
}

/// One look, which must be due now.
fn look(hub: &Hub) -> Look {
    let mut looks = hub.looks();
    assert_eq!(looks.len(), 1);
    looks.remove(0)
}

#[tokio::test]
async fn who_joins_from_further_behind_during_a_read_is_read_for_again() {
    let hub = Hub::new(settings());
    let first = hub.admit(ann()).unwrap();
    let mut first_frames = first.join(5);
    let look_of_first = look(&hub);
    assert_eq!(look_of_first.position.after, 5);
    let second = hub.admit(ann()).unwrap();
    let mut second_frames = second.join(2);

    hub.deliver(&[look_of_first], &events(6..=7));
    assert_eq!(heard(&mut first_frames), ["id: 6", "id: 7"]);
    assert_eq!(heard(&mut second_frames), [""; 0], "there would be a gap from 3 to 5");

    let look_of_second = look(&hub);
    assert_eq!(look_of_second.position.after, 2);
    hub.deliver(&[look_of_second], &events(3..=6));
    assert_eq!(heard(&mut second_frames), ["id: 3", "id: 4", "id: 5", "id: 6"]);
    assert_eq!(heard(&mut first_frames), [""; 0], "nothing is told twice");
}

#[tokio::test]
async fn a_wake_up_during_a_read_is_not_lost() {
    let hub = Hub::new(settings());
    let place = hub.admit(ann()).unwrap();
    let mut frames = place.join(0);
    let reading = look(&hub);
    hub.wake([&ann()], true);
    hub.deliver(&[reading], &events(1..=1));
    assert_eq!(heard(&mut frames), ["id: 1"]);
    assert_eq!(look(&hub).position.after, 1);
}

#[tokio::test]
async fn a_wake_up_before_its_commit_is_looked_at_again_and_then_left_to_the_sweep() {
    let hub = Hub::new(settings());
    let place = hub.admit(ann()).unwrap();
    let _frames = place.join(0);
    hub.deliver(&[look(&hub)], &[]);
    assert!(hub.looks().is_empty(), "whoever joins is looked up once");

    hub.wake([&ann()], false);
    for _ in LOOK_AGAIN {
        hub.deliver(&[next_look(&hub).await], &[]);
        assert!(hub.looks().is_empty(), "not at once");
    }
    hub.deliver(&[next_look(&hub).await], &[]);
    assert!(hub.lock().due.is_empty());
}

#[tokio::test]
async fn a_client_without_room_gets_the_rest_when_it_has_some_and_is_dropped_when_it_stays_so() {
    let hub = Hub::new(settings());
    let place = hub.admit(ann()).unwrap();
    let mut frames = place.join(0);
    let reading = look(&hub);
    assert_eq!(reading.position.limit, 4);
    hub.deliver(&[reading], &events(1..=4));
    assert!(hub.looks().is_empty(), "nothing is read for a full buffer");

    assert_eq!(heard(&mut frames).len(), 4);
    let reading = next_look(&hub).await;
    assert_eq!(reading.position.after, 4);
    hub.deliver(&[reading], &events(5..=8));
    while !hub.connected().is_empty() {
        hub.work().await;
        assert!(hub.looks().is_empty(), "nothing is read for a full buffer");
    }
    assert_eq!(heard(&mut frames).len(), 4);
    assert!(frames.recv().await.is_none(), "its stream ends");
}

#[tokio::test]
async fn a_place_ends_with_its_value() {
    let hub = Hub::new(SseSettings { streams_max: 1, ..settings() });
    let place = hub.admit(ann()).unwrap();
    let _frames = place.join(0);
    assert!(hub.admit(ann()).is_none());
    drop(place);
    assert!(hub.connected().is_empty());
    assert!(hub.admit(ann()).is_some());
}
