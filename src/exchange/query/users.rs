//! The queries for users: lists and exports.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use utoipa::{
    ToSchema,
    openapi::{RefOr, Schema},
};

use super::{Pairs, QueryError, query_parameters, read, read_with_pairs};
use crate::{
    domain::{Email, Prefix, UserId, ValidationError},
    exchange::{Cursor, CursorSigner, Fields, TextValue, whole_number, whole_number_schema, word_values},
    service::{CountMode, Filter, Position, Selection, Sort, SortKey},
};

const LIMITS: RangeInclusive<u64> = 1..=100;
const DEFAULT_LIMIT: u64 = 20;

query_parameters! {
    /// Filters, the sort order, and the members of each user.
    pub struct SelectionParameters {
        /// The user with this email address, ignoring case: none or one. Example: `ann@example.com`.
        email: Option<Email>,
        /// Users whose name begins with this, ignoring case. Example: `ann`.
        name: Option<Prefix>,
        /// Users whose name, last word of the name, or email address begins with this, ignoring case. Example: `exam`.
        q: Option<Prefix>,
        /// Users created after this time (RFC 3339). Example: `2026-11-21T10:15:30Z`.
        created_after: Option<DateTime<Utc>>,
        /// Users created before this time (RFC 3339). Example: `2026-11-22T10:15:30Z`.
        created_before: Option<DateTime<Utc>>,
        /// Users with one of these ids.
        ids: Option<Vec<UserId>>,
        /// The sort order; a leading minus means descending.
        sort: Option<UserSort>,
        /// Members of each user in the response; all by default.
        fields: Option<Fields>,
    }
}

query_parameters! {
    /// The page of a list.
    pub struct ListParameters {
        /// Maximum number of users on the page.
        limit: Option<Limit>,
        /// A cursor from the `Link` header of an earlier response to the same query.
        cursor: Option<Cursor>,
        /// Whether `X-Total-Count` reports the number of users on all pages. `exact` counts them; `estimated` counts up
        /// to 10,000 and beyond that returns the query planner's estimate.
        count: Option<UserCount>,
    }
}

query_parameters! {
    /// The start of an export, and whether it can be resumed.
    pub struct ExportParameters {
        /// Continue after the user that had this cursor.
        cursor: Option<Cursor>,
        /// Add a member `cursor` to each user, from which an interrupted export can be resumed.
        cursors: Option<bool>,
    }
}

/// A sort order.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(default = Self::default)]
pub enum UserSort {
    /// By time of creation.
    #[default]
    #[serde(rename = "createdAt")]
    CreatedAt,
    /// By time of creation, descending.
    #[serde(rename = "-createdAt")]
    CreatedAtDescending,
    /// By name.
    #[serde(rename = "name")]
    Name,
    /// By name, descending.
    #[serde(rename = "-name")]
    NameDescending,
    /// By email address.
    #[serde(rename = "email")]
    Email,
    /// By email address, descending.
    #[serde(rename = "-email")]
    EmailDescending,
}

/// The accuracy of a count of users.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum UserCount {
    /// Counts all users.
    Exact,
    /// Counts up to 10,000 users, and estimates beyond.
    Estimated,
}

/// The number of users on a page, 1 to 100.
#[derive(Clone, Copy, Debug)]
pub struct Limit(u64);

word_values!(component UserSort);
word_values!(inline UserCount);

impl Limit {
    /// Returns the number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(DEFAULT_LIMIT)
    }
}

impl TextValue for Limit {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        whole_number(text, &LIMITS).map(Self)
    }

    fn schema() -> RefOr<Schema> {
        whole_number_schema(&LIMITS).default(Some(DEFAULT_LIMIT.into())).into()
    }
}

impl From<UserSort> for Sort {
    fn from(sort: UserSort) -> Self {
        let (key, descending) = match sort {
            UserSort::CreatedAt => (SortKey::Created, false),
            UserSort::CreatedAtDescending => (SortKey::Created, true),
            UserSort::Name => (SortKey::Name, false),
            UserSort::NameDescending => (SortKey::Name, true),
            UserSort::Email => (SortKey::Email, false),
            UserSort::EmailDescending => (SortKey::Email, true),
        };
        Self { key, descending }
    }
}

impl From<UserCount> for CountMode {
    fn from(count: UserCount) -> Self {
        match count {
            UserCount::Exact => Self::Exact,
            UserCount::Estimated => Self::Estimated,
        }
    }
}

impl SelectionParameters {
    fn into_parts(self) -> (Selection, Fields) {
        let Self { email, name, q, created_after, created_before, ids, sort, fields } = self;
        let filter = Filter { email, name, text: q, created_after, created_before, ids };
        (Selection { filter, sort: sort.unwrap_or_default().into() }, fields.unwrap_or_default())
    }
}

/// The query of a list.
pub struct ListQuery {
    /// The selected users, and their order.
    pub selection: Selection,
    /// The position of the page.
    pub position: Position,
    /// Maximum number of users on the page.
    pub limit: u64,
    /// The selected members of each user.
    pub fields: Fields,
    /// How to count the users on all pages, if at all.
    pub count: Option<CountMode>,
    /// The query without its cursor, for links to other pages.
    pub without_cursor: String,
}

impl ListQuery {
    /// Parses a query string.
    ///
    /// # Errors
    ///
    /// [`QueryError`].
    pub fn parse(query: &str, signer: &CursorSigner) -> Result<Self, QueryError> {
        let ((ListParameters { limit, cursor, count }, selection), pairs) =
            read_with_pairs::<(ListParameters, SelectionParameters)>(query)?;
        let limit = limit.unwrap_or_default().get();
        let (selection, fields) = selection.into_parts();
        let position = position(cursor.as_ref(), &selection, signer)?;
        let without_cursor = without_cursor(&pairs, limit);
        Ok(Self { selection, position, limit, fields, count: count.map(CountMode::from), without_cursor })
    }
}

/// The query of an export.
pub struct ExportQuery {
    /// The selected users, and their order.
    pub selection: Selection,
    /// The start of the export.
    pub position: Position,
    /// The selected members of each user.
    pub fields: Fields,
    /// Whether each user has a cursor.
    pub has_cursors: bool,
}

impl ExportQuery {
    /// Parses a query string such as `name=ann&sort=-name`.
    ///
    /// # Errors
    ///
    /// [`QueryError`].
    pub fn parse(query: &str, signer: &CursorSigner) -> Result<Self, QueryError> {
        let query = query.strip_prefix('?').unwrap_or(query);
        let (selection, ExportParameters { cursor, cursors }) = read::<(SelectionParameters, ExportParameters)>(query)?;
        let (selection, fields) = selection.into_parts();
        let position = position(cursor.as_ref(), &selection, signer)?;
        if matches!(position, Position::Before(_)) {
            return Err(QueryError::Cursor("An export continues after a user; this cursor points before one."));
        }
        Ok(Self { selection, position, fields, has_cursors: cursors.unwrap_or_default() })
    }
}

/// Returns the position of a cursor; without a cursor, the start of the list.
fn position(cursor: Option<&Cursor>, selection: &Selection, signer: &CursorSigner) -> Result<Position, QueryError> {
    let Some(cursor) = cursor else { return Ok(Position::First) };
    signer.decode(selection, cursor).ok_or(QueryError::Cursor(
        "Use a cursor from an earlier response to the same query, unchanged. Only limit, fields and count may differ.",
    ))
}

/// Returns the query with its effective limit and without its cursor.
fn without_cursor(pairs: &Pairs<'_>, limit: u64) -> String {
    let others = pairs.iter().filter(|(name, _)| !["limit", "cursor"].contains(&name.as_ref()));
    form_urlencoded::Serializer::new(format!("limit={limit}")).extend_pairs(others).finish()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;
    use url::form_urlencoded;

    use super::*;

    fn parse(query: &str) -> Result<ListQuery, QueryError> {
        ListQuery::parse(query, &CursorSigner::new(""))
    }

    #[test]
    fn links_to_other_pages_repeat_the_query() {
        let query = parse("name=J%C3%BCrgen+K&limit=7&sort=-email&fields=id,email").ok().unwrap();
        assert_eq!(query.without_cursor, "limit=7&name=J%C3%BCrgen+K&sort=-email&fields=id%2Cemail");
        assert_eq!(parse("").ok().unwrap().without_cursor, "limit=20");
    }

    #[test]
    fn the_documented_default_order_is_that_of_the_service() {
        assert_eq!(Sort::from(UserSort::default()), Sort::default());
    }

    #[test]
    fn a_time_may_have_any_offset() {
        for text in ["1970-01-01T01:00:00%2B01:00", "1970-01-01T00:00:00Z", "1969-12-31t23:59:59.9999999999z"] {
            let query = parse(&format!("createdAfter={text}")).ok().unwrap();
            assert!((query.selection.filter.created_after.unwrap() - DateTime::UNIX_EPOCH).abs().num_seconds() == 0);
        }
        assert!(parse("createdAfter=1970-01-01T01:00:00+01:00").is_err(), "a plus is a space");
    }

    #[test]
    fn every_error_is_reported() {
        let Err(QueryError::Parameters(errors)) = parse("limit=0&limit=1&ids=x&colour=red&sort=age&cursor=a") else {
            panic!("the query is valid")
        };
        let found: Vec<(&str, &str)> = errors.iter().map(|error| (error.name.as_str(), error.error.code)).collect();
        let expected = [
            ("limit", "duplicate-parameter"),
            ("ids", "malformed"),
            ("sort", "unknown-value"),
            ("colour", "unknown-parameter"),
        ];
        assert_eq!(found, expected);
        assert!(errors[2].error.message.ends_with("createdAt, -createdAt, name, -name, email, -email"));
    }

    proptest! {
        #[test]
        fn no_query_panics(query in any::<String>()) {
            let _ = parse(&query);
        }

        #[test]
        fn no_value_panics(
            name in "limit|cursor|email|name|q|createdAfter|createdBefore|ids|sort|fields|count", value in any::<String>()
        ) {
            let pair: String = form_urlencoded::Serializer::new(String::new()).append_pair(&name, &value).finish();
            let _ = parse(&pair);
        }
    }
}
