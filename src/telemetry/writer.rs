//! The way of log lines to their file descriptor: a bounded buffer, and a thread that writes it out.
//!
//! A write to a pipe blocks while its reader stalls. Only that thread may wait for it: when the buffer is full, lines are
//! dropped and counted, and the count is logged where they are missing.

use std::{
    fs::File,
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that wait to be written: some thousand lines, as much as Docker's non-blocking log driver buffers.
const CAPACITY: usize = 1024 * 1024;
/// The pause before the next try where a descriptor is non-blocking and full.
const RETRY: Duration = Duration::from_millis(10);

/// Takes log lines without ever blocking.
#[derive(Clone)]
pub(super) struct LogWriter(Arc<Shared>);

#[derive(Default)]
struct Shared {
    buffer: Mutex<Buffer>,
    /// There is something to write.
    filled: Condvar,
    /// Everything has been written.
    flushed: Condvar,
}

#[derive(Default)]
struct Buffer {
    pending: Vec<u8>,
    /// Lines that were dropped and are not reported yet.
    dropped: u64,
    /// The thread waits for `filled`. Waking it costs a system call.
    is_waiting: bool,
    /// The thread writes what it has taken out.
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

    /// Waits until every line so far has been written, for `limit` at most.
    pub(super) fn flush(&self, limit: Duration) {
        let is_busy = |buffer: &mut Buffer| buffer.is_writing || !buffer.pending.is_empty();
        drop(self.0.flushed.wait_timeout_while(self.0.lock(), limit, is_busy));
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

/// One line at a time: the formatter hands over each event with a single `write_all`.
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
        // A report that could not be written either would be dropped, and reported, for ever.
        let mut is_healthy = true;
        loop {
            let dropped = self.take(&mut batch, is_healthy);
            if dropped > 0 {
                tracing::warn!(count = dropped, "log lines dropped");
            }
            let written = write(&mut output, &batch);
            is_healthy = written == batch.len();
            let lost = batch[written..].split(|byte| *byte == b'\n').count() as u64 - 1;
            if lost > 0 {
                self.lock().dropped += lost;
                count_dropped(lost);
            }
            batch.clear();
        }
    }

    /// Waits for lines, takes them all, and gives how many were dropped behind those that were taken before.
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

/// Gives how much was written before an error. There is no one to report it to: this is the log.
fn write(output: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match output.write(&bytes[written..]) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(_) => break,
        }
    }
    written
}

fn count_dropped(lines: u64) {
    metrics::counter!(DROPPED).increment(lines);
}

/// The metric of lines that were dropped.
pub(super) const DROPPED: &str = "log_lines_dropped_total";

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes at a time, then fails.
    struct Reluctant(Vec<io::Result<usize>>);

    impl Write for Reluctant {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.remove(0).map(|count| count.min(bytes.len()))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_descriptor_is_retried_and_a_broken_one_is_not() {
        let full = || Err(io::ErrorKind::WouldBlock.into());
        assert_eq!(write(&mut Reluctant(vec![Ok(2), full(), Ok(3)]), b"12345"), 5);
        assert_eq!(write(&mut Reluctant(vec![Ok(2), Err(io::ErrorKind::BrokenPipe.into())]), b"12345"), 2);
    }

    #[test]
    fn what_exceeds_the_buffer_is_dropped_and_counted() {
        let writer = LogWriter(Arc::default());
        let line = vec![b'x'; CAPACITY / 4];
        for _ in 0..6 {
            (&writer).write_all(&line).unwrap();
        }
        let buffer = writer.0.lock();
        assert_eq!((buffer.pending.len(), buffer.dropped), (CAPACITY, 2));
    }
}
