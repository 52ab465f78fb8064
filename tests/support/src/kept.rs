use std::process::{Child, ChildStdin, Command};

/// A program that ends with the case: its keeper ends it when our end of a pipe closes.
pub struct Kept {
    keeper: Child,
    leash: Option<ChildStdin>,
}

impl Kept {
    /// Starts the command of `Owner::kept`.
    pub fn start(mut command: Command) -> Self {
        let mut keeper = command.spawn().unwrap();
        let leash = keeper.stdin.take();
        Self { keeper, leash }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.leash.take());
        // It has no other way to end.
        let _ = self.keeper.wait();
    }
}
