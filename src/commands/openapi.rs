//! `users-api openapi`: the OpenAPI document, of which `docs/openapi.json` is a copy.

use super::CommandError;
use crate::http::{self, RouteSet};

/// Prints the OpenAPI document.
pub(crate) fn openapi() -> Result<(), CommandError> {
    let mut document = serde_json::to_string_pretty(&http::document(RouteSet::All)).map_err(CommandError::failed)?;
    document.push('\n');
    super::print(&document)
}
