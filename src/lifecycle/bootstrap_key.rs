//! The first API key, which the settings bring, so that a fresh installation can be used.

use crate::{
    domain::{ApiKey, KeyName, Scopes},
    service::{Error, KeyService, NewKey},
};

/// Stores the bootstrap key with all scopes, unless it is stored already. A revoked one stays revoked.
pub(crate) async fn store_bootstrap_key(service: &KeyService, text: &str) -> Result<(), Error> {
    // The settings have been validated: a text is a key or empty.
    let (Some(key), Ok(name)) = (ApiKey::parse(text.as_bytes()), KeyName::parse("bootstrap")) else { return Ok(()) };
    let new = NewKey { key, name, scopes: Scopes::ALL_OF_KEYS, expires_at: None };
    if service.create_if_absent(new).await? {
        tracing::info!(key = %key.id, "bootstrap API key stored");
    }
    Ok(())
}
