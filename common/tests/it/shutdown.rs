//! Background tasks stop in order, and never silently.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::shutdown::Tasks;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_fails_stops_the_process_and_is_named() {
    let stop = CancellationToken::new();
    let tasks = Tasks::new(stop.clone());
    tasks.spawn("relay", async { anyhow::bail!("no more") });
    stop.cancelled().await;
    let failure = tasks.finish(PATIENCE).await.unwrap_err();
    assert_eq!(format!("{failure:#}"), "task relay: no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ends_or_panics_too_early_counts_as_failed() {
    for (panics, reason) in [(false, "task relay: ended by itself"), (true, "task relay: panicked")] {
        let stop = CancellationToken::new();
        let tasks = Tasks::new(stop.clone());
        tasks.spawn("relay", async move {
            assert!(!panics, "on purpose");
            Ok(())
        });
        stop.cancelled().await;
        assert_eq!(format!("{:#}", tasks.finish(PATIENCE).await.unwrap_err()), reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_end_before_what_they_need() {
    let tasks = Tasks::new(CancellationToken::new());
    let ended = Arc::new(Mutex::new(Vec::new()));
    // Started in the wrong order, and the one to end first takes longest.
    for (stage, name, takes_ms) in
        [(tasks.last(), "connection", 0), (tasks.outliving(), "publish", 20), (tasks.clone(), "reserve", 60)]
    {
        let (stop, ended) = (stage.stop_token(), ended.clone());
        stage.spawn(name, async move {
            stop.cancelled().await;
            tokio::time::sleep(Duration::from_millis(takes_ms)).await;
            ended.lock().unwrap().push(name);
            Ok(())
        });
    }
    tasks.finish(PATIENCE).await.unwrap();
    assert_eq!(*ended.lock().unwrap(), ["reserve", "publish", "connection"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signal_alone_does_not_stop_tasks() {
    let stop = CancellationToken::new();
    let tasks = Tasks::new(stop.clone());
    stop.cancel();
    assert!(!tasks.stop_token().is_cancelled(), "they work on while HTTP drains");
    tasks.finish(PATIENCE).await.unwrap();
    assert!(tasks.stop_token().is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_does_not_end_in_time_is_named() {
    let tasks = Tasks::new(CancellationToken::new());
    tasks.spawn("stuck", std::future::pending());
    let failure = tasks.finish(Duration::from_millis(50)).await.unwrap_err();
    assert!(failure.to_string().contains("stuck"), "{failure}");
}

/// An HTTP worker has a runtime of its own, which ends with the server, before what it started has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_outlives_the_runtime_that_started_it() {
    let tasks = Tasks::new(CancellationToken::new());
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (ended, has_ended) = tokio::sync::oneshot::channel();
    let started_elsewhere = tasks.clone();
    std::thread::spawn(move || {
        let worker = tokio::runtime::Builder::new_current_thread().build().unwrap();
        worker.block_on(async {
            let stop = started_elsewhere.stop_token();
            started_elsewhere.spawn("lazy", async move {
                begun.send(()).unwrap();
                stop.cancelled().await;
                ended.send(()).unwrap();
                Ok(())
            });
            has_begun.await.unwrap();
        });
    })
    .join()
    .unwrap();

    tasks.finish(Duration::from_secs(20)).await.unwrap();
    has_ended.await.unwrap();
}
