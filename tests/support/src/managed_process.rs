use std::{
    io::Write,
    process::{Child, ChildStdin, Command},
};

/// A child process that ends when this value is dropped, or when this process ends.
pub struct ManagedProcess {
    supervisor: Child,
    // The supervisor ends the program when this pipe closes.
    pipe: Option<ChildStdin>,
}

impl ManagedProcess {
    /// Starts a command that [`Owner::managed_command`](crate::Owner::managed_command) has built.
    pub fn start(mut command: Command) -> Self {
        let mut supervisor = command.spawn().unwrap();
        let pipe = supervisor.stdin.take();
        Self { supervisor, pipe }
    }

    /// Ends it with this signal instead of the one of its command, and waits until it has ended.
    pub fn end_with(mut self, signal: &str) {
        if let Some(pipe) = &mut self.pipe {
            writeln!(pipe, "{signal}").unwrap();
        }
    }
}

impl Drop for ManagedProcess {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.supervisor.wait();
    }
}
