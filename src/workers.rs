//! Threads that each run whole connections.
//!
//! A packet passes several tasks on its way through the gateway: russh's for the client, the
//! channel's, russh's for the node. On one thread they wake each other for next to nothing, and
//! what one has ready the next takes in one go; across threads each packet costs a system call.
//! So a connection stays, with all it spawns, on the thread that it was given.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The threads. Dropping this drops what still runs on them, and waits for their end.
pub struct Workers {
    workers: Vec<Worker>,
    stop: Option<DropGuard>,
}

struct Worker {
    runtime: Handle,
    thread: Option<JoinHandle<()>>,
    connections: Arc<AtomicUsize>,
}

/// Counts a connection for as long as it exists.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts as many threads as the processor runs at once.
    ///
    /// # Errors
    /// The system gives no more threads or descriptors.
    pub fn start() -> io::Result<Self> {
        let stop = CancellationToken::new();
        let count = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = (0..count).map(|_| Worker::start(stop.clone())).collect::<io::Result<_>>();
        // Threads that were started before one failed end with the guard.
        let stop = Some(stop.drop_guard());
        Ok(Self { workers: workers?, stop })
    }

    /// Runs a connection from `source`, counted by `tracker`, on the thread that has fewest.
    pub(crate) fn spawn(
        &self,
        tracker: &TaskTracker,
        source: IpAddr,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let Some(worker) = self.choose(source) else { return };
        worker.connections.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(worker.connections.clone());
        let connection = async move {
            connection.await;
            drop(counted);
        };
        tracker.spawn_on(connection, &worker.runtime);
    }

    /// Among equals the same thread for the same source: what its last connection left there, such
    /// as a spare connection to a node, is best used there.
    fn choose(&self, source: IpAddr) -> Option<&Worker> {
        let count = self.workers.len();
        let usual = last_byte(source) % count.max(1);
        let distance = |index: usize| (index + count - usual) % count;
        self.workers
            .iter()
            .enumerate()
            .min_by_key(|(index, worker)| {
                (worker.connections.load(Ordering::Relaxed), distance(*index))
            })
            .map(|(_, worker)| worker)
    }
}

fn last_byte(address: IpAddr) -> usize {
    let last = match address {
        IpAddr::V4(address) => address.octets().last().copied(),
        IpAddr::V6(address) => address.octets().last().copied(),
    };
    usize::from(last.unwrap_or_default())
}

impl Drop for Workers {
    fn drop(&mut self) {
        drop(self.stop.take());
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a thread that runs connections panicked");
            }
        }
    }
}

impl Worker {
    fn start(stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = thread::Builder::new().name("connections".to_owned()).spawn(move || {
            runtime.block_on(stop.cancelled());
            // A file operation that hangs must not keep the gateway from ending.
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, thread: Some(thread), connections: Arc::default() })
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn workers(count: usize) -> Workers {
        let stop = CancellationToken::new();
        let workers = (0..count).map(|_| Worker::start(stop.clone()).unwrap()).collect();
        Workers { workers, stop: Some(stop.drop_guard()) }
    }

    fn counts(workers: &Workers) -> Vec<usize> {
        workers.workers.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).collect()
    }

    #[tokio::test]
    async fn connections_are_spread_evenly_and_a_lone_one_returns_to_its_thread() {
        let workers = workers(3);
        let tracker = TaskTracker::new();
        let run = || {
            let (end, ended) = oneshot::channel::<()>();
            let (tell, thread) = oneshot::channel();
            workers.spawn(&tracker, HERE, async move {
                tell.send(thread::current().id()).unwrap();
                let _ = ended.await;
            });
            (thread, end)
        };
        let (first, end_of_first) = run();
        let first = first.await.unwrap();
        let others = [run(), run(), run()];
        assert_eq!(counts(&workers).iter().sum::<usize>(), 4);
        assert!(counts(&workers).iter().all(|count| *count >= 1), "{:?}", counts(&workers));
        drop((end_of_first, others));
        tracker.close();
        tracker.wait().await;
        assert_eq!(counts(&workers), [0, 0, 0]);
        tracker.reopen();
        let (again, _end) = run();
        assert_eq!(again.await.unwrap(), first);
    }

    #[tokio::test]
    async fn what_a_connection_spawns_stays_on_its_thread() {
        let workers = workers(2);
        let tracker = TaskTracker::new();
        let (tell, threads) = oneshot::channel();
        workers.spawn(&tracker, HERE, async move {
            let spawned = tokio::spawn(async { thread::current().id() }).await.unwrap();
            tell.send((spawned, thread::current().id())).unwrap();
        });
        let (spawned, own) = threads.await.unwrap();
        assert_eq!(spawned, own);
    }
}
