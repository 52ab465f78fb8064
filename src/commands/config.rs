//! `users-api config`: every setting, its value and its origin.

use std::{collections::BTreeMap, fmt::Write as _};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::CommandError;
use crate::settings::{self, Layers};

/// Options of `config`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ConfigOptions {
    /// Print JSON: an object with value and origin for each key
    #[arg(long)]
    json: bool,
    /// Print a commented settings file (toml) or .env file (env) with all defaults instead
    #[arg(long, value_enum, conflicts_with = "json")]
    template: Option<Template>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Template {
    Toml,
    Env,
}

/// Prints every setting with its origin, then validates them.
pub(crate) fn config(layers: &Layers, options: ConfigOptions) -> Result<(), CommandError> {
    match options.template {
        Some(Template::Toml) => return super::print(&settings::default_toml()),
        Some(Template::Env) => return super::print(&settings::env_example()),
        None => {}
    }
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
