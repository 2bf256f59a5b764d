//! Workers that take items from a queue until told to stop.
//!
//! Invariant: an error or a panic costs that item a delay and nobody else anything.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::queue::WorkQueue;

/// Runs `workers` tasks; returns when `cancel` is cancelled or the queue shut down, and all have ended. An error is logged
/// and the item retried with growing delay; so is a panic.
pub async fn run_workers<T, F, Fut, E>(queue: WorkQueue<T>, workers: usize, cancel: CancellationToken, work: F)
where
    T: Clone + Eq + Hash + Debug + Send + Sync + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let work = Arc::new(work);
    let tasks: Vec<_> = (0..workers)
        .map(|_| {
            let (queue, cancel, work) = (queue.clone(), cancel.clone(), work.clone());
            tokio::spawn(async move {
                loop {
                    let item = tokio::select! {
                        biased;
                        _ = cancel.cancelled() => break,
                        item = queue.get() => match item {
                            Some(item) => item,
                            None => break,
                        },
                    };
                    // The closure itself may panic before it yields a future.
                    let attempt = AssertUnwindSafe(async { work(item.clone()).await }).catch_unwind();
                    let outcome = tokio::select! {
                        biased;
                        _ = cancel.cancelled() => break,
                        outcome = attempt => outcome,
                    };
                    match outcome {
                        Ok(Ok(())) => queue.forget(&item),
                        Ok(Err(error)) => {
                            warn!(?item, %error, "will be tried again");
                            queue.add_rate_limited(item.clone());
                        }
                        Err(panic) => {
                            error!(?item, panic = panic_text(&*panic), "panicked, will be tried again");
                            queue.add_rate_limited(item.clone());
                        }
                    }
                    queue.done(&item);
                }
            })
        })
        .collect();
    for task in tasks {
        let _ = task.await; // A worker catches its panics, so it cannot fail.
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[tokio::test(start_paused = true)]
    async fn errors_and_panics_are_retried_and_harm_nobody() {
        let queue = WorkQueue::new();
        let log = Arc::new(Mutex::new(Vec::new()));
        let cancel = CancellationToken::new();
        for item in ["good", "bad", "ugly"] {
            queue.add(item);
        }
        let (seen, stop) = (log.clone(), cancel.clone());
        run_workers(queue, 1, cancel, move |item: &'static str| {
            let (seen, stop) = (seen.clone(), stop.clone());
            async move {
                seen.lock().push(item);
                let rounds = seen.lock().iter().filter(|known| **known == item).count();
                match (item, rounds) {
                    ("bad", 1) => Err("no"),
                    ("ugly", 1) => panic!("very"),
                    ("ugly", _) => {
                        stop.cancel();
                        Ok(())
                    }
                    _ => Ok(()),
                }
            }
        })
        .await;
        assert_eq!(*log.lock(), ["good", "bad", "ugly", "bad", "ugly"]);
    }
}
