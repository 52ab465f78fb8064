//! `users-api config`: every setting, its value and where it came from.

use std::fmt::Write as _;

use super::CommandError;
use crate::settings::Layers;

/// Prints every setting with its origin, then checks them all.
pub(crate) fn config(layers: &Layers) -> Result<(), CommandError> {
    let rows: Vec<_> = layers.shown().collect();
    let key_width = rows.iter().map(|(key, _, _)| key.len()).max().unwrap_or(0);
    let value_width = rows.iter().map(|(_, value, _)| value.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value, origin) in rows {
        // Writing into a String does not fail.
        let _ = writeln!(text, "{key:key_width$} = {value:value_width$}  # {origin}");
    }
    super::print(&text)?;
    layers.settings()?;
    Ok(())
}
