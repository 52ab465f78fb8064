//! `users-api audit`: prints the journal.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use clap::Args;
use humantime_serde::re::humantime;
use serde_json::json;

use super::{
    CommandError,
    interruptible::{check_schema, print_if_open, with_pool},
};
use crate::{
    domain::{UserId, Version},
    exchange::format_time,
    service::{Error, Journal, JournalEntry, clock},
    settings::Settings,
};

/// Entries read at a time.
const PAGE_SIZE: u64 = 1000;

/// Options of `audit`.
#[derive(Clone, Debug, Args)]
pub(crate) struct AuditOptions {
    /// Only changes of this user, also of one that is deleted
    #[arg(long, value_name = "ID", value_parser = |text: &str| text.parse::<UserId>().map_err(|error| error.message))]
    user: Option<UserId>,
    /// Only changes by this actor, such as key:3mWv0cY2bQeR or cli:root
    #[arg(long)]
    actor: Option<String>,
    /// Only changes since this time (2026-11-29T12:00:00Z), or within this duration (24h)
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<DateTime<Utc>>,
    /// Maximum number of changes
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Print JSON, one change per line
    #[arg(long)]
    json: bool,
}

fn parse_since(text: &str) -> Result<DateTime<Utc>, String> {
    let ago = |duration| clock::now().checked_sub_signed(chrono::TimeDelta::from_std(duration).ok()?);
    let time = match humantime::parse_duration(text) {
        Ok(duration) => ago(duration),
        Err(_) => DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc()),
    };
    time.ok_or_else(|| "must be a time such as 2026-11-29T12:00:00Z or a duration such as 24h".to_owned())
}

/// Prints changes of users, newest first.
pub(crate) fn audit(settings: &Settings, options: &AuditOptions) -> Result<(), CommandError> {
    let pool_options = settings.pool.clone().max(1).min(0);
    with_pool(settings, &pool_options, async |pool, stop| {
        check_schema(&pool, settings, &stop).await?;
        let journal = Journal::new(pool);
        let (mut position, mut remaining) = (None, options.limit);
        while remaining > 0 {
            let page = stop.run_until_requested(Box::pin(options.read(&journal, position))).await;
            let page = page.ok_or_else(CommandError::no_effect)?.map_err(CommandError::failed)?;
            let is_last = (page.len() as u64) < PAGE_SIZE || options.is_before(&page);
            position = page.last().map(|entry| options.position(entry));
            let matching = page.iter().filter(|entry| options.matches(entry));
            let lines: Vec<String> = matching
                .take(usize::try_from(remaining).unwrap_or(usize::MAX))
                .map(|entry| options.line(entry))
                .collect();
            remaining -= lines.len() as u64;
            if !print_if_open(lines.concat(), &stop).await? || is_last {
                break;
            }
        }
        Ok(())
    })
}

impl AuditOptions {
    async fn read(&self, journal: &Journal, before: Option<i64>) -> Result<Vec<JournalEntry>, Error> {
        match self.user {
            Some(user) => journal.history(user, before.map(Version::from_stored), PAGE_SIZE).await,
            None => journal.latest(before, PAGE_SIZE).await,
        }
    }

    /// Returns the position of an entry in the order in which entries are read.
    fn position(&self, entry: &JournalEntry) -> i64 {
        if self.user.is_some() { entry.version } else { entry.id }
    }

    // Filtered here, and not by the database: no index fits, and the statements stay short.
    fn matches(&self, entry: &JournalEntry) -> bool {
        self.actor.as_ref().is_none_or(|actor| entry.actor == *actor) && self.is_since(entry)
    }

    fn is_since(&self, entry: &JournalEntry) -> bool {
        self.since.is_none_or(|since| entry.changed_at >= since)
    }

    /// Returns whether all changes of a page, and so all that follow, are too old.
    fn is_before(&self, page: &[JournalEntry]) -> bool {
        !page.iter().any(|entry| self.is_since(entry))
    }

    fn line(&self, entry: &JournalEntry) -> String {
        if self.json { json_line(entry) } else { text_line(entry) }
    }
}

fn json_line(entry: &JournalEntry) -> String {
    let line = json!({
        "userId": entry.user_id.to_string(),
        "version": entry.version,
        "action": entry.action,
        "changed": entry.changed,
        "actor": entry.actor,
        "requestId": entry.request_id,
        "changedAt": format_time(entry.changed_at),
        "name": entry.name,
        "email": entry.email,
    });
    format!("{line}\n")
}

fn text_line(entry: &JournalEntry) -> String {
    let JournalEntry { user_id, version, action, actor, .. } = entry;
    let mut line = format!("{}  {user_id}  version {version}  {action:7}  {actor}", format_time(entry.changed_at));
    if !entry.changed.is_empty() {
        // Writing into a String does not fail.
        let _ = write!(line, "  ({})", entry.changed.join(", "));
    }
    if let Some(request_id) = &entry.request_id {
        let _ = write!(line, "  request {request_id}");
    }
    line + "\n"
}
