//! The declaration of a setting: the single source of its field, default, allowed values, description and properties.

use std::{fmt, time::Duration};

use bytesize::ByteSize;
use config::Value;
use humantime_serde::re::humantime;

use super::List;

/// A setting.
#[derive(Debug)]
pub(super) struct Setting {
    /// Its name in a settings file, such as `pool.max`.
    pub(super) key: &'static str,
    /// Its default, as it is written in TOML.
    default: &'static str,
    pub(super) allowed: Allowed,
    /// What it does, line by line.
    description: &'static [&'static str],
    /// Whether a change takes effect on SIGHUP.
    pub(super) is_reloadable: bool,
    /// Whether its value is never shown, and can come from a file: `database.password_file`, `DATABASE_URL_FILE`.
    pub(super) is_secret: bool,
    /// A second environment variable, as set by platforms and tools; the usual name takes precedence.
    pub(super) alias: Option<&'static str>,
}

impl Setting {
    pub(super) const fn new(
        key: &'static str,
        default: &'static str,
        description: &'static [&'static str],
        allowed: Allowed,
    ) -> Self {
        Self { key, default, allowed, description, is_reloadable: false, is_secret: false, alias: None }
    }

    pub(super) const fn reloadable(self) -> Self {
        Self { is_reloadable: true, ..self }
    }

    pub(super) const fn secret(self) -> Self {
        Self { is_secret: true, ..self }
    }

    pub(super) const fn alias(self, alias: &'static str) -> Self {
        Self { alias: Some(alias), ..self }
    }

    /// Its default in TOML.
    pub(super) fn toml_default(&self) -> String {
        match self.allowed {
            // A list is declared as one text.
            Allowed::List(_) => format!("{:?}", &*List::from(self.env_default())),
            _ => self.default.to_owned(),
        }
    }

    /// Its default in the environment.
    pub(super) fn env_default(&self) -> &'static str {
        self.default.trim_matches('"')
    }

    /// What it does, its range and its other name, as the lines of a comment.
    pub(super) fn comment(&self) -> impl Iterator<Item = String> {
        let range = self.allowed.range().map(|(min, max)| format!("Range: {min} to {max}."));
        let alias = self.alias.map(|alias| format!("{alias} also sets it."));
        let last = match (range, alias) {
            (Some(range), Some(alias)) => Some(format!("# {range} {alias}")),
            (range, alias) => range.or(alias).map(|sentence| format!("# {sentence}")),
        };
        // Backticks are for rustdoc. Each line begins with the space that follows `///`.
        self.description.iter().map(|line| format!("#{}", line.replace('`', ""))).chain(last)
    }
}

/// The values that a setting may have.
#[derive(Debug)]
pub(super) enum Allowed {
    Integer {
        min: u64,
        max: u64,
    },
    Duration {
        min: Duration,
        max: Duration,
    },
    /// A size of memory.
    Size {
        min: ByteSize,
        max: ByteSize,
    },
    Boolean,
    /// A [`List`], in words.
    List(&'static str),
    /// In words. The type of the field, or a check of the whole section, decides.
    Described(&'static str),
}

impl Allowed {
    pub(super) const ANY_DURATION: Self = Self::Duration { min: Duration::ZERO, max: Duration::MAX };

    pub(super) const fn duration(min: Duration, max: Duration) -> Self {
        Self::Duration { min, max }
    }

    /// Returns the lowest and the highest value; `None` if they are not limited, or only in words.
    fn range(&self) -> Option<(String, String)> {
        match *self {
            Self::Integer { min, max } => Some((min.to_string(), max.to_string())),
            Self::Duration { max: Duration::MAX, .. } | Self::Boolean | Self::List(_) | Self::Described(_) => None,
            Self::Duration { min, max } => {
                let text =
                    |value: Duration| exact(value.as_millis(), DURATION_UNITS).unwrap_or_else(|| "0s".to_owned());
                Some((text(min), text(max)))
            }
            Self::Size { min, max } => {
                let text = |size: ByteSize| exact(size.as_u64().into(), SIZE_UNITS).unwrap_or_else(|| "0B".to_owned());
                Some((text(min), text(max)))
            }
        }
    }

    /// Whether a value is one of them, as far as that can be said without the rest of the settings.
    pub(super) fn contains(&self, value: &Value) -> bool {
        let text = value.clone().into_string().unwrap_or_default();
        match self {
            Self::Integer { min, max } => text.parse().is_ok_and(|value: u64| (*min..=*max).contains(&value)),
            Self::Duration { min, max } => humantime::parse_duration(&text).is_ok_and(|it| (*min..=*max).contains(&it)),
            Self::Size { min, max } => text.parse().is_ok_and(|size: ByteSize| (*min..=*max).contains(&size)),
            Self::Boolean | Self::List(_) | Self::Described(_) => true,
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = self.range().map_or(String::new(), |(min, max)| format!(" from {min} to {max}"));
        match self {
            Self::Integer { .. } => write!(f, "a whole number{range}"),
            Self::Duration { max: Duration::MAX, .. } => f.write_str("a duration such as 250ms, 5s or 10m"),
            Self::Duration { .. } => write!(f, "a duration{range}, such as 250ms, 5s or 10m"),
            Self::Size { .. } => write!(f, "a size{range}, such as 64MiB"),
            Self::Boolean => f.write_str("true or false"),
            Self::List(text) => write!(f, "{text}; in the environment, separated by commas"),
            Self::Described(text) => f.write_str(text),
        }
    }
}

/// The units of durations in milliseconds, the largest first.
const DURATION_UNITS: &[(&str, u128)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
/// The units of sizes in bytes, the largest first.
const SIZE_UNITS: &[(&str, u128)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Writes a number in the largest unit of which it is a multiple; `None` if it is 0. The crates of these types would
/// write 365d as `11months 30days` and so on.
fn exact(value: u128, units: &[(&str, u128)]) -> Option<String> {
    let (unit, size) = units.iter().find(|(_, size)| value > 0 && value.is_multiple_of(*size))?;
    Some(format!("{}{unit}", value / size))
}

/// Declares the settings of a section as a table. Comments become the descriptions, and the rest of a line is the
/// default, the allowed values and further properties.
macro_rules! settings {
    (
        $table:ident: $section:literal {
            $(
                $(#[doc = $doc:literal])*
                $setting:ident = $default:literal, $allowed:expr $(, $property:ident $(($argument:literal))?)*;
            )*
        }
    ) => {
        pub(super) static $table: &[crate::settings::declaration::Setting] = &[$(
            crate::settings::declaration::Setting::new(
                concat!($section, ".", stringify!($setting)),
                stringify!($default),
                &[$($doc),*],
                $allowed,
            )$(.$property($($argument)?))*,
        )*];
    };
}

/// Declares a section: its struct, and the table of its settings.
macro_rules! section {
    (
        $(#[doc = $section_doc:literal])*
        $name:ident, $table:ident: $section:literal {
            $(
                $(#[doc = $doc:literal])*
                $(#[serde($($serde:tt)*)])?
                $visibility:vis $setting:ident: $kind:ty = $default:literal, $allowed:expr
                    $(, $property:ident $(($argument:literal))?)*;
            )*
        }
        $(with { $($derived:tt)* })?
    ) => {
        $(#[doc = $section_doc])*
        #[derive(Clone, Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $(
                $(#[doc = $doc])*
                $(#[serde($($serde)*)])?
                $visibility $setting: $kind,
            )*
            $($($derived)*)?
        }

        crate::settings::declaration::settings! {
            $table: $section {
                $($(#[doc = $doc])* $setting = $default, $allowed $(, $property $(($argument))?)*;)*
            }
        }
    };
}
pub(super) use section;
pub(super) use settings;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_durations_are_checked_against_their_range() {
        let threads = Allowed::Integer { min: 0, max: 64 };
        let wait = Allowed::duration(Duration::from_millis(1), Duration::from_hours(1));
        for (allowed, value, is_allowed) in [
            (&threads, "64", true),
            (&threads, "65", false),
            (&threads, "-1", false),
            (&threads, "many", false),
            (&wait, "1h", true),
            (&wait, "61m", false),
            (&wait, "0s", false),
            (&wait, "5", false),
        ] {
            assert_eq!(allowed.contains(&Value::from(value)), is_allowed, "{value}");
        }
        assert_eq!(threads.to_string(), "a whole number from 0 to 64");
        assert_eq!(wait.to_string(), "a duration from 1ms to 1h, such as 250ms, 5s or 10m");
    }

    #[test]
    fn sizes_are_checked_against_their_range() {
        let ring = Allowed::Size { min: ByteSize::mib(1), max: ByteSize::gib(16) };
        for (value, is_allowed) in [
            ("1MiB", true),
            ("1048576", true),
            ("1048575", false),
            ("16GiB", true),
            ("17GiB", false),
            ("0", false),
            ("much", false),
        ] {
            assert_eq!(ring.contains(&Value::from(value)), is_allowed, "{value}");
        }
        assert_eq!(ring.to_string(), "a size from 1MiB to 16GiB, such as 64MiB");
    }

    #[test]
    fn long_durations_are_written_in_days() {
        let day = Duration::from_hours(24);
        let keep = Allowed::duration(Duration::ZERO, day.saturating_mul(3650));
        assert_eq!(keep.to_string(), "a duration from 0s to 3650d, such as 250ms, 5s or 10m");
        let odd = Allowed::duration(Duration::from_millis(1500), Duration::from_secs(90));
        assert_eq!(odd.range(), Some(("1500ms".to_owned(), "90s".to_owned())));
    }

    #[test]
    fn comments_end_with_the_range_and_the_other_name() {
        let comment = |setting: Setting| setting.comment().collect::<Vec<_>>();
        let port = || Setting::new("port", "80", &[" TCP `port`."], Allowed::Integer { min: 0, max: 9 });
        assert_eq!(comment(port()), ["# TCP port.", "# Range: 0 to 9."]);
        assert_eq!(comment(port().alias("PORT")), ["# TCP port.", "# Range: 0 to 9. PORT also sets it."]);
        let filter = || Setting::new("filter", "info", &[" What is logged."], Allowed::Described("a filter"));
        assert_eq!(comment(filter().alias("LOG")), ["# What is logged.", "# LOG also sets it."]);
        assert_eq!(comment(filter()), ["# What is logged."]);
        let idle = Setting::new("idle", "10m", &[" Idle timeout."], Allowed::ANY_DURATION);
        assert_eq!(comment(idle), ["# Idle timeout."]);
    }
}
