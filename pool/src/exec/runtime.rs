//! The runtime that the pool runs on: a dedicated one or the application's.
//!
//! A socket is bound to the runtime that opened it. If each HTTP worker has its own, a socket would fail when its worker
//! stops, and operations of other workers would wake tasks across runtimes. So all operations run on one runtime.

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

/// How long remaining tasks may run once the pool is closed.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) struct PoolRuntime {
    handle: Handle,
    /// Whether only the pool runs on it.
    is_dedicated: bool,
    // Taken by `shutdown` or `drop`: waiting for a runtime inside another one would panic.
    runtime: Mutex<Option<Runtime>>,
}

impl PoolRuntime {
    /// Starts a runtime for the pool alone.
    pub(crate) fn start(threads: usize) -> io::Result<Self> {
        let threads = match threads {
            0 => (thread::available_parallelism()?.get() / 2).max(1),
            threads => threads,
        };
        let runtime = Builder::new_multi_thread().worker_threads(threads).thread_name("pool").enable_all().build()?;
        Ok(Self { handle: runtime.handle().clone(), is_dedicated: true, runtime: Mutex::new(Some(runtime)) })
    }

    /// Uses the application's runtime, which outlives the pool.
    pub(crate) fn from_handle(handle: Handle) -> Self {
        Self { handle, is_dedicated: false, runtime: Mutex::new(None) }
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

    /// Whether the current task belongs to an operation: on a dedicated runtime, all others are tasks of the pool itself.
    pub(crate) fn is_within_operation(&self) -> bool {
        self.is_dedicated && Handle::try_current().is_ok_and(|current| current.id() == self.handle.id())
    }

    /// Shuts a dedicated runtime down; the application's continues. Tasks that still run after [`SHUTDOWN_TIMEOUT`] are dropped.
    pub(crate) async fn shutdown(&self) {
        let Some(runtime) = self.take() else { return };
        // On a separate thread: waiting blocks, and the caller may be on a single-threaded runtime.
        let finished = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(SHUTDOWN_TIMEOUT));
        if finished.await.is_err() {
            tracing::warn!("pool runtime did not shut down cleanly");
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
