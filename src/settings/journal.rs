//! The section `[journal]`.

use std::time::Duration;

use super::declaration::{Allowed, section};

const DAY: Duration = Duration::from_hours(24);

section! {
    /// `journal.*`: the record of all changes.
    JournalSettings, SETTINGS: "journal" {
        /// How long the changes of users and their authors are kept. Too low: the authors of older changes cannot be
        /// looked up. Too high: more storage, about 250 bytes per change.
        #[serde(with = "humantime_serde")]
        pub keep: Duration = "90d", Allowed::duration(Duration::from_secs(1), DAY.saturating_mul(3650));
    }
}
