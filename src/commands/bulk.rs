//! Shared parts of `import` and `export`: the service, counts, the progress bar.

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use super::{
    CommandError,
    interruptible::{prepare_schema, with_pool},
};
use crate::{
    lifecycle::StopRequest,
    service::{ChangeSignal, UserService},
    settings::Settings,
};

/// Runs `work` with a service on a separate pool, once the schema is up to date. The first signal requests a stop at a
/// point where the work can be resumed.
pub(super) fn with_service(
    settings: &Settings,
    work: impl AsyncFnOnce(UserService, StopRequest) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    // Statements run one at a time, so more than two connections would be idle.
    let options = settings.pool.clone().max(settings.pool.max.min(2)).min(1);
    with_pool(settings, &options, async |pool, stop| {
        // The running processes find the changes.
        let feed = settings.feed.enabled.then(ChangeSignal::default);
        prepare_schema(&pool, settings.database.migrate, &stop).await?;
        work(UserService::new(pool, feed), stop).await
    })
}

/// Formats a count with its noun: "1 user", "1,000 users".
pub(super) fn pluralize(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", HumanCount(count), if count == 1 { "" } else { "s" })
}

/// Returns a progress bar on standard error, hidden unless that is a terminal.
pub(super) fn progress(length: Option<u64>, position: &str) -> ProgressBar {
    let bar = match length {
        Some(length) => ProgressBar::new(length),
        None => ProgressBar::no_length(),
    };
    let template = match length {
        // The message fills the remaining columns.
        Some(_) => format!("{{elapsed}} {{bar:20}} {position}, {{eta}} left  {{wide_msg}}"),
        None => format!("{{elapsed}} {{spinner}} {position}  {{wide_msg}}"),
    };
    match ProgressStyle::with_template(&template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// A terminal of 80 columns that records its output.
    #[derive(Clone, Debug, Default)]
    struct Terminal(Arc<Mutex<String>>);

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            80
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            self.write_str("\n")
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn progress_fits_in_80_columns() {
        for (length, position) in [
            (Some(1 << 40), "{bytes}/{total_bytes}"),
            (Some(123_456_789), "{human_pos}/~{human_len} users"),
            (None, "{bytes}"),
        ] {
            let (terminal, bar) = (Terminal::default(), progress(length, position));
            bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(terminal.clone())));
            bar.set_position(123_456_789);
            bar.set_message("123,456,789 rows: 100,000,000 created, 23,000,000 updated, 456,789 refused");
            bar.abandon();
            let drawn = terminal.0.lock().unwrap().clone();
            let longest = drawn.lines().map(|line| line.trim_end().chars().count()).max().unwrap();
            assert!((40..=80).contains(&longest), "{longest}: {drawn}");
            assert!(drawn.contains("row"), "{drawn}");
        }
    }

    #[test]
    fn counts_are_pluralized() {
        for (count, text) in [(0, "0 users"), (1, "1 user"), (2, "2 users"), (1_000_000, "1,000,000 users")] {
            assert_eq!(pluralize(count, "user"), text);
        }
    }
}
