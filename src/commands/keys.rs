//! `users-api keys`: creates, lists, rotates and revokes API keys.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use humantime_serde::re::humantime;
use serde_json::json;

use super::{
    CommandError,
    interruptible::{check_schema, print, with_pool},
    table::{BAD, Cell, GOOD, WARNING, table},
};
use crate::{
    domain::{ApiKey, KeyId, KeyName, Overlap, Scopes},
    service::{KeyRecord, KeyService, NewKey, clock},
    settings::Settings,
};

/// Actions of `keys`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum KeysAction {
    /// Create a key and print it; it cannot be shown again
    Create(CreateOptions),
    /// List all keys, without their secrets
    List,
    /// Create a new key with the same name, scopes and expiry, and let the old one expire
    Rotate {
        #[arg(value_name = "ID", help = id_help("the old key"), value_parser = parse::<KeyId>)]
        id: KeyId,
        /// How long the old key still works
        #[arg(long, value_name = "DURATION", default_value_t, value_parser = parse::<Overlap>)]
        overlap: Overlap,
    },
    /// Revoke a key: it stops working within auth.refresh
    Revoke {
        #[arg(value_name = "ID", help = id_help("the key"), value_parser = parse::<KeyId>)]
        id: KeyId,
    },
    /// Print a new key without storing it, for auth.bootstrap_key_file
    Generate,
}

/// Options of `keys create`.
#[derive(Clone, Debug, Args)]
pub(crate) struct CreateOptions {
    /// What the key is for: one line
    #[arg(long, value_parser = |text: &str| KeyName::parse(text).map_err(|error| error.message))]
    name: KeyName,
    /// A scope of the key, or all; may be repeated
    #[arg(long = "scope", required = true, value_name = "SCOPE", value_parser = parse_scopes)]
    scopes: Vec<Scopes>,
    /// How long the key works, such as 90d; without it, until it is revoked
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    expires: Option<Duration>,
}

fn parse<T: std::str::FromStr<Err = crate::domain::ValidationError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: crate::domain::ValidationError| error.message)
}

fn parse_scopes(text: &str) -> Result<Scopes, String> {
    match text {
        "all" => Ok(Scopes::ALL_OF_KEYS),
        _ => Scopes::parse_for_key(text).map_err(|error| error.message),
    }
}

fn id_help(key: &str) -> String {
    format!("The id of {key}: the {} letters and digits after uak_", KeyId::LENGTH)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    // Far beyond any use, and within what a timestamp can hold.
    const MAX_YEARS: u64 = 100;
    const MAX: Duration = Duration::from_hours(MAX_YEARS * 365 * 24);
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= MAX => Ok(duration),
        _ => Err(format!("must be a duration of at most {MAX_YEARS} years, such as 12h or 90d")),
    }
}

/// Manages keys.
pub(crate) fn keys(settings: &Settings, action: KeysAction, json: bool) -> Result<(), CommandError> {
    if matches!(action, KeysAction::Generate) {
        let (key, text) = generate()?;
        return super::print(&new_key(&key, &text, json));
    }
    let options = settings.pool.clone().max(1).min(0);
    with_pool(settings, &options, async |pool, stop| {
        check_schema(&pool, settings, &stop).await?;
        let service = KeyService::new(pool);
        let text = stop
            .run_until_requested(Box::pin(run(&service, action, json)))
            .await
            .ok_or_else(CommandError::no_effect)??;
        print(text, &stop).await
    })
}

async fn run(service: &KeyService, action: KeysAction, json: bool) -> Result<String, CommandError> {
    match action {
        KeysAction::Create(options) => {
            let (key, text) = generate()?;
            let printed = new_key(&key, &text, json);
            let new = NewKey {
                key,
                name: options.name,
                scopes: options.scopes.iter().flat_map(|scopes| scopes.iter()).collect(),
                expires_at: options.expires.map(|expires| clock::now() + expires),
            };
            service.create(new).await.map_err(CommandError::failed)?;
            Ok(printed)
        }
        KeysAction::List => {
            let keys = service.list().await.map_err(CommandError::failed)?;
            Ok(if json { keys.iter().map(json_line).collect() } else { list(&keys, clock::now()) })
        }
        KeysAction::Rotate { id, overlap } => {
            let (key, text) = generate()?;
            let printed = new_key(&key, &text, json);
            service.rotate(id, key, overlap, Scopes::ALL).await.map_err(CommandError::failed)?;
            Ok(printed)
        }
        KeysAction::Revoke { id } => {
            service.revoke(id).await.map_err(CommandError::failed)?;
            Ok(if json {
                format!("{}\n", json!({"id": id.as_str(), "revoked": true}))
            } else {
                format!("{id} revoked\n")
            })
        }
        KeysAction::Generate => {
            let (key, text) = generate()?;
            Ok(new_key(&key, &text, json))
        }
    }
}

fn generate() -> Result<(ApiKey, String), CommandError> {
    ApiKey::generate().map_err(|error| CommandError::failed(error.to_string()))
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn json_line(key: &KeyRecord) -> String {
    let line = json!({
        "id": key.id.as_str(),
        "name": key.name.as_str(),
        "scope": key.scopes.to_string(),
        "createdAt": time(key.created_at),
        "expiresAt": key.expires_at.map(time),
        "revokedAt": key.revoked_at.map(time),
        "replacedBy": key.replaced_by.map(|id| id.to_string()),
        "lastUsedAt": key.last_used_at.map(time),
    });
    format!("{line}\n")
}

/// Returns a new key as it is printed: alone, so that a script can store it.
fn new_key(key: &ApiKey, text: &str, json: bool) -> String {
    if json { format!("{}\n", json!({"id": key.id.as_str(), "key": text})) } else { format!("{text}\n") }
}

fn list(keys: &[KeyRecord], now: DateTime<Utc>) -> String {
    let state = |key: &KeyRecord| match (key.revoked_at, key.expires_at) {
        (Some(_), _) => Cell::styled("revoked", BAD),
        (None, Some(end)) if end <= now => Cell::styled("expired", BAD),
        (None, Some(end)) => Cell::styled(format!("until {}", time(end)), WARNING),
        (None, None) => Cell::styled("active", GOOD),
    };
    let row = |key: &KeyRecord| {
        let used = key.last_used_at.map_or_else(|| "never".to_owned(), time);
        [
            Cell::new(key.id.as_str()),
            state(key),
            Cell::new(used),
            Cell::new(key.scopes.to_string()),
            Cell::new(key.name.as_str()),
        ]
    };
    table(["ID", "STATE", "LAST USED", "SCOPES", "NAME"], keys.iter().map(row).collect())
}
