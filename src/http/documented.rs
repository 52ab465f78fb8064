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
    #[param(minimum = 1, maximum = 100, default = 20, example = 20)]
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
    /// The user with this email, however it is written: one or none.
    #[param(format = "email", max_length = 254)]
    email: Option<String>,
    /// Users whose name begins so, without regard to case.
    #[param(example = "ann", min_length = 1, max_length = 200)]
    name: Option<String>,
    /// Users whose name, last name or email begins so, without regard to case.
    #[param(example = "exam", min_length = 1, max_length = 200)]
    q: Option<String>,
    /// Users created after this moment.
    #[param(example = "2026-11-21T10:15:30Z")]
    created_after: Option<DateTime<Utc>>,
    /// Users created before this moment.
    #[param(example = "2026-11-22T10:15:30Z")]
    created_before: Option<DateTime<Utc>>,
    /// Users with one of these ids.
    #[param(style = Form, explode = false, min_items = 1, max_items = 100)]
    ids: Option<Vec<Uuid>>,
    /// What to sort by; a minus puts the last one first.
    #[param(inline)]
    sort: Option<SortParameter>,
    /// Members to give; all unless there are some.
    #[param(style = Form, explode = false, inline, min_items = 1)]
    fields: Option<Vec<Field>>,
}

#[derive(ToSchema)]
#[schema(default = "createdAt")]
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
    /// The user's id.
    #[param(example = "019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40")]
    id: Uuid,
}

/// Conditions of a request (RFC 9110, section 13).
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents what `conditions` reads")]
pub(super) struct ConditionParameters {
    /// Entity tags, or `*`: only if the user is at one of these versions.
    #[param(rename = "If-Match", example = "\"1\"")]
    if_match: Option<String>,
    /// Entity tags, or `*`: only if the user is at none of these versions.
    #[param(rename = "If-None-Match", example = "\"1\"")]
    if_none_match: Option<String>,
}

/// Header of a request that may be sent again.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents what `IdempotencyKey` reads")]
pub(super) struct KeyParameter {
    /// A key of the client's own making, best a UUID in double quotes. The answer is kept under it, for a day unless the
    /// operator says otherwise.
    #[param(
        rename = "Idempotency-Key",
        example = "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"",
        pattern = r#"^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--:<-\[\]-~]{1,255})$"#
    )]
    idempotency_key: Option<String>,
}
