//! Informs the feed of this process of changes, so that it need not poll for them.

use std::sync::Arc;

use tokio::sync::Notify;

/// Signals that changes were committed by this process.
#[derive(Clone, Debug, Default)]
pub struct ChangeSignal(Arc<Notify>);

impl ChangeSignal {
    /// Signals a change. Signals without a waiter are combined into one.
    pub fn notify(&self) {
        self.0.notify_one();
    }

    /// Waits for a signal.
    pub async fn notified(&self) {
        self.0.notified().await;
    }
}
