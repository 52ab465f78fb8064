//! Keeps the signing keys of the identity provider up to date.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{
    auth::{JwksSource, TokenVerifier},
    error_chain::chain,
    service::clock,
};

/// How often the keys are read without a reason.
const INTERVAL: Duration = Duration::from_mins(10);
/// How often at most they are read because a token names an unknown key, or because reading failed: anyone can make up
/// such tokens.
const MIN_INTERVAL: Duration = Duration::from_mins(1);
/// How often they are read until that has succeeded for the first time.
const FIRST_INTERVAL: Duration = Duration::from_secs(2);

/// When the signing keys were last read, as a Unix time.
const LAST_READ: &str = "auth_jwks_last_read_timestamp_seconds";

pub(super) async fn run(verifier: Arc<TokenVerifier>, source: JwksSource) {
    metrics::describe_gauge!(LAST_READ, "When the signing keys of access tokens were last read (Unix time)");
    loop {
        let read_at = Instant::now();
        let interval = refresh(&verifier, &source).await;
        // A token that names an unknown key ends the pause, but not before the minimum.
        sleep_until(read_at + interval.min(MIN_INTERVAL)).await;
        let _ = timeout_at(read_at + interval, verifier.unknown_key()).await;
    }
}

/// Reads the keys. Returns the time until the next read.
async fn refresh(verifier: &TokenVerifier, source: &JwksSource) -> Duration {
    match source.read().await.and_then(|jwks| verifier.replace_keys(&jwks).map_err(Into::into)) {
        Ok(0) => tracing::warn!(%source, "the JWKS has no usable key"),
        Ok(count) => tracing::debug!(%source, count, "signing keys read"),
        Err(error) => {
            let error = chain(error.as_ref());
            let known_keys = verifier.key_count();
            tracing::warn!(%source, error, known_keys, "cannot read the JWKS; known keys remain valid");
            return if known_keys.is_some() { MIN_INTERVAL } else { FIRST_INTERVAL };
        }
    }
    metrics::gauge!(LAST_READ).set(clock::unix_seconds());
    INTERVAL
}

#[cfg(test)]
mod tests {
    use humantime_serde::re::humantime::format_duration;
    use jsonwebtoken::Algorithm;

    use super::*;
    use crate::auth::TokenRules;

    #[test]
    fn the_settings_file_names_the_intervals() {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/config/default.toml")).replace("\n# ", " ");
        let [usual, least] = [INTERVAL, MIN_INTERVAL].map(format_duration);
        assert!(text.contains(&format!("It is read every {usual}, and also when")), "{usual}");
        assert!(text.contains(&format!("but then at most once in {least}.")), "{least}");
    }

    #[test]
    fn known_keys_survive_a_source_that_is_away_and_new_ones_are_read() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("jwks.json");
            let verifier = TokenVerifier::new(TokenRules {
                issuer: "i".to_owned(),
                audience: "a".to_owned(),
                algorithms: vec![Algorithm::EdDSA],
                scope_claim: "scope".to_owned(),
            });
            let source = JwksSource::new(file.to_str().unwrap());
            let refreshed = async |jwks: Option<&str>| {
                if let Some(jwks) = jwks {
                    std::fs::write(&file, jwks).unwrap();
                }
                let interval = refresh(&verifier, &source).await;
                (interval, verifier.key_count())
            };
            assert_eq!(refreshed(None).await, (FIRST_INTERVAL, None));
            let jwk = |id: &str| format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"{id}","x":"{}"}}"#, "A".repeat(43));
            let one = format!(r#"{{"keys":[{}]}}"#, jwk("a"));
            assert_eq!(refreshed(Some(&one)).await, (INTERVAL, Some(1)));
            for broken in ["", "{}", "[]", "no JSON"] {
                assert_eq!(refreshed(Some(broken)).await, (MIN_INTERVAL, Some(1)), "{broken}");
            }
            std::fs::remove_file(&file).unwrap();
            assert_eq!(refreshed(None).await, (MIN_INTERVAL, Some(1)));
            let two = format!(r#"{{"keys":[{},{}]}}"#, jwk("a"), jwk("b"));
            assert_eq!(refreshed(Some(&two)).await, (INTERVAL, Some(2)));
            assert_eq!(refreshed(Some(r#"{"keys":[]}"#)).await, (INTERVAL, Some(0)), "what the provider says counts");
        });
    }
}
