//! A non-blocking log writer: a bounded buffer, and a thread that writes it to the file descriptor.
//!
//! A write to a pipe blocks while its reader stalls. Only that thread blocks: while the buffer is full, lines are
//! dropped and counted, and the count is logged in their place.

use std::{
    fs::File,
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Capacity of the buffer in bytes: some thousand lines, as much as Docker's non-blocking log driver buffers.
const CAPACITY: usize = 1024 * 1024;
/// Pause before a write is retried on a non-blocking descriptor that is full.
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// Buffers log lines. Never blocks.
#[derive(Clone)]
pub(super) struct LogWriter(Arc<Shared>);

#[derive(Default)]
struct Shared {
    buffer: Mutex<Buffer>,
    /// Notified when the buffer has data.
    filled: Condvar,
    /// Notified when everything has been written.
    flushed: Condvar,
}

#[derive(Default)]
struct Buffer {
    pending: Vec<u8>,
    /// Dropped lines that are not reported yet.
    dropped: u64,
    /// Whether the thread waits for `filled`. Waking it costs a system call.
    is_waiting: bool,
    /// Whether the thread is writing lines that it has taken.
    is_writing: bool,
}

impl LogWriter {
    /// Starts the thread that writes to `output`.
    pub(super) fn start(output: File) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let writer = Self(Arc::clone(&shared));
        thread::Builder::new().name("log".to_owned()).spawn(move || shared.write_out(output))?;
        Ok(writer)
    }

    /// Waits until every line so far has been written, for `timeout` at most.
    pub(super) fn flush(&self, timeout: Duration) {
        let is_busy = |buffer: &mut Buffer| buffer.is_writing || !buffer.pending.is_empty();
        drop(self.0.flushed.wait_timeout_while(self.0.lock(), timeout, is_busy));
    }

    fn push(&self, line: &[u8]) {
        let mut buffer = self.0.lock();
        if buffer.pending.len() + line.len() > CAPACITY {
            buffer.dropped += 1;
            drop(buffer);
            count_dropped(1);
            return;
        }
        buffer.pending.extend_from_slice(line);
        if mem::take(&mut buffer.is_waiting) {
            drop(buffer);
            self.0.filled.notify_one();
        }
    }
}

/// Each write is one line: the formatter writes an event with a single `write_all`.
impl Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a LogWriter;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_out(&self, mut output: File) {
        let mut batch = Vec::new();
        // While writes fail, drops are not reported: that report would be dropped and reported in turn, forever.
        let mut is_healthy = true;
        loop {
            let dropped = self.take(&mut batch, is_healthy);
            if dropped > 0 {
                tracing::warn!(count = dropped, "log lines dropped");
            }
            let written = write(&mut output, &batch);
            is_healthy = written == batch.len();
            let unwritten = batch[written..].split(|byte| *byte == b'\n').count() as u64 - 1;
            if unwritten > 0 {
                self.lock().dropped += unwritten;
                count_dropped(unwritten);
            }
            batch.clear();
        }
    }

    /// Waits for lines and takes all of them. Returns how many were dropped after the previous batch.
    fn take(&self, batch: &mut Vec<u8>, is_healthy: bool) -> u64 {
        let mut buffer = self.lock();
        buffer.is_writing = false;
        while buffer.pending.is_empty() {
            self.flushed.notify_all();
            buffer.is_waiting = true;
            buffer = self.filled.wait(buffer).unwrap_or_else(PoisonError::into_inner);
        }
        buffer.is_waiting = false;
        buffer.is_writing = true;
        mem::swap(&mut buffer.pending, batch);
        if is_healthy { mem::take(&mut buffer.dropped) } else { 0 }
    }
}

/// Returns how many bytes were written before an error. The error itself cannot be reported: this is the log.
fn write(output: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match output.write(&bytes[written..]) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY_DELAY),
            Err(_) => break,
        }
    }
    written
}

fn count_dropped(lines: u64) {
    metrics::counter!(DROPPED).increment(lines);
}

/// Metric: dropped log lines.
pub(super) const DROPPED: &str = "log_lines_dropped_total";

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the given results of writes.
    struct ScriptedOutput(Vec<io::Result<usize>>);

    impl Write for ScriptedOutput {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.remove(0).map(|count| count.min(bytes.len()))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_descriptor_is_retried_but_a_broken_pipe_is_not() {
        let full = || Err(io::ErrorKind::WouldBlock.into());
        assert_eq!(write(&mut ScriptedOutput(vec![Ok(2), full(), Ok(3)]), b"12345"), 5);
        assert_eq!(write(&mut ScriptedOutput(vec![Ok(2), Err(io::ErrorKind::BrokenPipe.into())]), b"12345"), 2);
    }

    #[test]
    fn lines_beyond_the_capacity_are_dropped_and_counted() {
        let writer = LogWriter(Arc::default());
        let line = vec![b'x'; CAPACITY / 4];
        for _ in 0..6 {
            (&writer).write_all(&line).unwrap();
        }
        let buffer = writer.0.lock();
        assert_eq!((buffer.pending.len(), buffer.dropped), (CAPACITY, 2));
    }
}
