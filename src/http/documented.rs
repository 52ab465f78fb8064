//! Parameters and bodies as the OpenAPI document describes them. No request is read into these types: each extractor reads its
//! own input, to report all errors at once.
#![expect(dead_code, reason = "types that describe, and hold nothing")]

use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::exchange::Field;

/// Query of a list; documents what `ListQuery` reads.
#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(super) struct ListParameters {
    /// How many users at most.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<u64>,
    /// From the `Link` header of an earlier answer to the same query.
    #[param(pattern = "^[A-Za-z0-9_-]{44,2200}$", min_length = 44, max_length = 2200)]
    cursor: Option<String>,
    /// Whether to tell in `X-Total-Count` how many users there are in all pages together: each counted, or, beyond
    /// 10,000, what the database takes for their number without looking.
    #[param(inline)]
    count: Option<CountParameter>,
}

/// Which users, and what of them; documents what `Parameters` reads.
#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(super) struct SelectionParameters {
    /// The user with this email, regardless of case: one or none. Example: `ann@example.com`.
    #[param(format = "idn-email", max_length = 254)]
    email: Option<String>,
    /// Users whose name begins with this, regardless of case. Example: `ann`.
    #[param(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// Users whose name, last name or email begins with this, regardless of case. Example: `exam`.
    #[param(min_length = 1, max_length = 200)]
    q: Option<String>,
    /// Users created after this time (RFC 3339). Example: `2026-11-21T10:15:30Z`.
    created_after: Option<DateTime<Utc>>,
    /// Users created before this time (RFC 3339). Example: `2026-11-22T10:15:30Z`.
    created_before: Option<DateTime<Utc>>,
    /// Users with one of these ids.
    #[param(style = Form, explode = false, min_items = 1, max_items = 100)]
    ids: Option<Vec<Uuid>>,
    /// What to sort by; a minus sorts in descending order.
    sort: Option<SortParameter>,
    /// Members of each user in the answer; all by default.
    #[param(style = Form, explode = false, min_items = 1)]
    fields: Option<Vec<Field>>,
}

#[derive(ToSchema)]
#[schema(as = UserSort, default = "createdAt")]
pub(super) enum SortParameter {
    #[schema(rename = "createdAt")]
    CreatedAt,
    #[schema(rename = "-createdAt")]
    CreatedAtDescending,
    #[schema(rename = "name")]
    Name,
    #[schema(rename = "-name")]
    NameDescending,
    #[schema(rename = "email")]
    Email,
    #[schema(rename = "-email")]
    EmailDescending,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) enum CountParameter {
    Exact,
    Estimated,
}

/// Path of one user.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct IdParameter {
    /// The user's id, such as `019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40`. `GET /users` lists them.
    id: Uuid,
}

/// Conditions of a request about one user (RFC 9110, section 13).
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct ConditionParameters {
    /// Entity tags, or `*`: only if the user is at one of these versions. Example: `"1"`.
    #[param(rename = "If-Match", nullable = false)]
    if_match: Option<String>,
    /// Entity tags, or `*`: only if the user is at none of these versions. Example: `"1"`.
    #[param(rename = "If-None-Match", nullable = false)]
    if_none_match: Option<String>,
}

/// Conditions of a request about all users.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct ListConditionParameters {
    /// `*`: users may be changed whatever their version. Entity tags belong to single users and match nothing here.
    #[param(rename = "If-Match", nullable = false)]
    if_match: Option<String>,
    /// Entity tags match nothing here, so that the request is processed. `*` always fails.
    #[param(rename = "If-None-Match", nullable = false)]
    if_none_match: Option<String>,
}

/// Header of a request that may be sent again.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct KeyParameter {
    /// A key that the client generates, best a UUID in double quotes, such as `"8e03978e-40d5-43e8-bc93-6894a57f9324"`. The answer is
    /// stored under it, for a day unless the operator says otherwise. In bulk, rows that were processed under it are not
    /// processed again and have the same lines.
    #[param(
        rename = "Idempotency-Key",
        nullable = false,
        pattern = r#"^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--:<-\[\]-~]{1,255})$"#
    )]
    idempotency_key: Option<String>,
}

/// Query of work in bulk; documents what `BulkQuery` reads.
#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(super) struct BulkParameters {
    /// What to do with a row whose email is there already: refuse it, or give the user who has it the row's name and
    /// spelling.
    #[param(inline)]
    mode: Option<ModeParameter>,
    /// Tell what would happen, and change nothing.
    #[param(default = false)]
    dry_run: Option<bool>,
    /// All rows in one transaction, or none: up to 10,000.
    #[param(default = false)]
    atomic: Option<bool>,
    /// `end` answers once all rows are processed, which works with every client and proxy. `stream` sends each line as soon as
    /// its row is processed: the client has to read while it writes, and so does every proxy between.
    #[param(inline)]
    answer: Option<AnswerParameter>,
    /// A line for each row, or for each refused row and a summary, or the summary alone.
    #[param(inline)]
    report: Option<ReportParameter>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase", default = "insert")]
pub(super) enum ModeParameter {
    Insert,
    Upsert,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase", default = "end")]
pub(super) enum AnswerParameter {
    End,
    Stream,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase", default = "all")]
pub(super) enum ReportParameter {
    All,
    Refused,
    Summary,
}

/// Query of an export; documents what `ExportQuery` reads.
#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(super) struct ExportParameters {
    /// Continue after the user that had this cursor.
    #[param(pattern = "^[A-Za-z0-9_-]{44,2200}$", min_length = 44, max_length = 2200)]
    cursor: Option<String>,
    /// Add a member `cursor` to each user, from which an interrupted export can continue.
    #[param(default = false)]
    cursors: Option<bool>,
}

/// A user to create, or what replaces one.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UserDraft)]
pub(super) struct DraftBody {
    /// 1 to 200 characters after trimming, at least one of them visible; no control characters, and none that embed, override
    /// or isolate a direction of writing.
    #[schema(
        example = "Ann Example",
        min_length = 1,
        max_length = 200,
        pattern = r"^(?=.*\S)[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+$"
    )]
    name: String,
    /// Unique regardless of case and of how its domain is written; at most 254 octets, and no
    /// invisible characters.
    #[schema(example = "Ann@example.com", format = "idn-email", max_length = 254)]
    email: String,
}

/// What to change of a user (RFC 7396). What is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UserPatch)]
pub(super) struct PatchBody {
    /// 1 to 200 characters after trimming, at least one of them visible; no control characters, and none that embed, override
    /// or isolate a direction of writing.
    #[schema(example = "Ann Other", min_length = 1, max_length = 200, value_type = String, required = false, pattern = r"^(?=.*\S)[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+$")]
    name: Option<String>,
    /// Unique regardless of case and of how its domain is written; at most 254 octets, and no
    /// invisible characters.
    #[schema(example = "ann.other@example.com", format = "idn-email", max_length = 254, value_type = String, required = false)]
    email: Option<String>,
}
