//! `users-api config`: every setting, its value and where it came from.

use std::{collections::BTreeMap, fmt::Write as _};

use clap::Args;
use serde_json::json;

use super::CommandError;
use crate::settings::Layers;

/// How to print them.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ConfigOptions {
    /// As JSON: an object with value and origin for each key
    #[arg(long)]
    json: bool,
}

/// Prints every setting with its origin, then checks them all.
pub(crate) fn config(layers: &Layers, options: ConfigOptions) -> Result<(), CommandError> {
    super::print(&if options.json { json(layers)? } else { table(layers) })?;
    layers.settings()?;
    Ok(())
}

fn json(layers: &Layers) -> Result<String, CommandError> {
    let settings: BTreeMap<&str, _> = layers
        .shown()
        .map(|(key, value, origin)| (key, json!({"value": value, "origin": origin.to_string()})))
        .collect();
    let text = serde_json::to_string_pretty(&settings).map_err(CommandError::failed)?;
    Ok(text + "\n")
}

fn table(layers: &Layers) -> String {
    let rows: Vec<_> = layers.shown().collect();
    let key_width = rows.iter().map(|(key, _, _)| key.len()).max().unwrap_or(0);
    let value_width = rows.iter().map(|(_, value, _)| value.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value, origin) in rows {
        // Writing into a String does not fail.
        let _ = writeln!(text, "{key:key_width$} = {value:value_width$}  # {origin}");
    }
    text
}
