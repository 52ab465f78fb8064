//! Shared by the Rust peers, so that they differ only in how they access the database.

use chrono::{DateTime, SecondsFormat, Timelike, Utc};
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub id: Uuid,
    pub name: String,
    pub email: String,
    pub version: i64,
    #[serde(serialize_with = "microseconds")]
    pub created_at: DateTime<Utc>,
    #[serde(serialize_with = "microseconds")]
    pub updated_at: DateTime<Utc>,
}

fn microseconds<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

#[derive(Deserialize)]
pub struct Draft {
    name: String,
    email: String,
}

impl Draft {
    /// A new user, or `None` if the draft is not valid.
    pub fn into_user(self) -> Option<User> {
        let name = self.name.trim();
        let is_valid = (1..=200).contains(&name.chars().count()) && self.email.len() <= 254 && self.email.contains('@');
        let now = Utc::now();
        let now = now.with_nanosecond(now.nanosecond() / 1000 * 1000)?;
        is_valid.then(|| User {
            id: Uuid::now_v7(),
            name: name.to_owned(),
            email: self.email.clone(),
            version: 1,
            created_at: now,
            updated_at: now,
        })
    }
}

#[derive(Deserialize)]
pub struct ListQuery {
    pub limit: Option<u64>,
    pub after: Option<Uuid>,
    pub email: Option<String>,
}

impl ListQuery {
    pub fn limit(&self) -> u64 {
        self.limit.unwrap_or(20).clamp(1, 100)
    }
}

pub fn email_key(email: &str) -> String {
    email.to_lowercase()
}

pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

pub fn database_url() -> String {
    variable("DATABASE_URL").unwrap_or_else(|| "postgres://postgres@127.0.0.1/postgres".to_owned())
}

pub fn port() -> u16 {
    variable("PORT").and_then(|port| port.parse().ok()).unwrap_or(8080)
}

pub fn pool_max() -> u32 {
    variable("POOL_MAX").and_then(|max| max.parse().ok()).unwrap_or(10)
}
