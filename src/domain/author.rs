//! The author of a change.

use std::sync::Arc;

use super::Actor;

/// The author of a change, as the journal records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// The caller that makes the change.
    pub actor: Actor,
    /// The id of the request that makes it; `None` on the command line.
    pub request_id: Option<Arc<str>>,
}
