//! Asynchronous clean-up from `Drop`, which is not asynchronous.

use std::future::Future;
use std::time::Duration;

/// Longer than any clean-up takes, so that a stuck server cannot hang a finished test.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs `work` to its end on a thread of its own, so that it works on any runtime and also while a test panics.
///
/// A failure is printed and does not fail the test: what is left behind goes away with the run's servers.
pub(crate) fn block_on(what: &str, work: impl Future<Output = anyhow::Result<()>> + Send) {
    let result = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await? })
        });
        thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the clean-up panicked")))
    });
    if let Err(error) = result {
        eprintln!("testkit: {what} failed: {error:#}");
    }
}
