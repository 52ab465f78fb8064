//! Parameters as the OpenAPI document describes them. No request is read into these types: each extractor reads its own
//! parameters, to report all faults at once.

use chrono::{DateTime, Utc};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::exchange::Field;

/// Query of a list; documents what `ListQuery` reads.
#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
#[expect(dead_code, reason = "documents what `ListQuery` reads")]
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
#[expect(dead_code, reason = "documents what `Parameters` reads")]
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
#[expect(dead_code, reason = "documents what `ListQuery` reads")]
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
#[expect(dead_code, reason = "documents what `ListQuery` reads")]
pub(super) enum CountParameter {
    Exact,
    Estimated,
}

/// Path of one user.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents what `PathId` reads")]
pub(super) struct IdParameter {
    /// The user's id, such as `019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40`. `GET /users` lists them.
    id: Uuid,
}

/// Conditions of a request about one user (RFC 9110, section 13).
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents what `conditions` reads")]
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
#[expect(dead_code, reason = "documents what `ListCondition` reads")]
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
#[expect(dead_code, reason = "documents what `IdempotencyKey` reads")]
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
