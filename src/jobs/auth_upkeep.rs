//! Forgets idle callers and expired access tokens, so that the memory of authentication stays bounded.

use std::{sync::Arc, time::Duration};

use crate::{
    auth::{Authenticator, TokenVerifier},
    service::clock,
};

const INTERVAL: Duration = Duration::from_mins(1);

pub(super) async fn run(authenticator: Arc<Authenticator>, tokens: Option<Arc<TokenVerifier>>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        authenticator.limits().forget_idle();
        if let Some(tokens) = &tokens {
            tokens.forget_expired(clock::now());
        }
    }
}
