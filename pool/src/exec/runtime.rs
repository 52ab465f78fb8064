//! The runtime that the pool's connections live on.
//!
//! A connection's socket belongs to the runtime that opened it. Were that an HTTP worker's, the socket would err when
//! the worker ends, and every operation of another worker would wake across runtimes. So the pool has its own, and
//! operations come to it.

use std::{
    io,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
};

/// How long tasks get to end by themselves once the pool is closed.
const LAST_CALL: Duration = Duration::from_millis(500);

pub(crate) struct PoolRuntime {
    handle: Handle,
    // Taken by `end`, or else by `Drop`: a runtime must not be waited for inside another one.
    runtime: Mutex<Option<Runtime>>,
}

impl PoolRuntime {
    pub(crate) fn start(threads: usize) -> io::Result<Self> {
        let threads = match threads {
            0 => (thread::available_parallelism()?.get() / 2).max(1),
            set => set,
        };
        let runtime = Builder::new_multi_thread().worker_threads(threads).thread_name("pool").enable_all().build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Mutex::new(Some(runtime)) })
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.handle.spawn(task)
    }

    /// Whether the caller is a task of this runtime.
    pub(crate) fn is_current(&self) -> bool {
        Handle::try_current().is_ok_and(|current| current.id() == self.handle.id())
    }

    /// Ends the runtime; what still runs after a last call is dropped.
    pub(crate) async fn end(&self) {
        let Some(runtime) = self.take() else { return };
        // On a separate thread: waiting blocks, and the caller may sit on a single-threaded runtime.
        let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(LAST_CALL));
        if ended.await.is_err() {
            tracing::warn!("the pool's runtime did not end cleanly");
        }
    }

    fn take(&self) -> Option<Runtime> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for PoolRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.take() {
            runtime.shutdown_background();
        }
    }
}
