//! Keeps the signing keys of the identity provider up to date.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::auth::{JwksSource, TokenVerifier};

/// Times between two reads.
pub(super) struct Intervals {
    /// Without a reason.
    usual: Duration,
    /// The least if a token names an unknown key, or if reading failed: anyone can make up such tokens.
    least: Duration,
    /// Until they have been read for the first time.
    first: Duration,
}

pub(super) const INTERVALS: Intervals =
    Intervals { usual: Duration::from_mins(10), least: Duration::from_mins(1), first: Duration::from_secs(2) };

pub(super) async fn run(verifier: Arc<TokenVerifier>, source: JwksSource, intervals: Intervals) {
    loop {
        let read_at = Instant::now();
        let outcome = source.read().await.and_then(|jwks| verifier.replace_keys(&jwks).map_err(Into::into));
        let pause = match outcome {
            Ok(count) => {
                if count == 0 {
                    tracing::warn!(%source, "the JWKS has no usable key");
                } else {
                    tracing::debug!(%source, count, "signing keys read");
                }
                intervals.usual
            }
            Err(error) => {
                let error = crate::error_chain::chain(error.as_ref());
                let known_keys = verifier.key_count();
                tracing::warn!(%source, error, known_keys, "cannot read the JWKS; keys that are known stay valid");
                if known_keys.is_some() { intervals.least } else { intervals.first }
            }
        };
        // A token that names an unknown key ends the pause, but not before the minimum.
        sleep_until(read_at + pause.min(intervals.least)).await;
        let _ = timeout_at(read_at + pause, verifier.unknown_key()).await;
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::Algorithm;

    use super::*;
    use crate::auth::TokenRules;

    /// Waits until the file has been read after this change, which the log does not show.
    async fn until(condition: impl Fn() -> bool) {
        tokio::time::timeout(Duration::from_secs(30), async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
    }

    #[test]
    fn known_keys_survive_a_source_that_is_away_and_new_ones_are_read() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let file = std::env::temp_dir().join(format!("users-api-jwks-{}.json", std::process::id()));
            let rules = TokenRules {
                issuer: "i".to_owned(),
                audience: "a".to_owned(),
                algorithms: vec![Algorithm::EdDSA],
                scope_claim: "scope".to_owned(),
            };
            let verifier = Arc::new(TokenVerifier::new(rules));
            let short = Duration::from_millis(5);
            let intervals = Intervals { usual: short, least: short, first: short };
            let source = JwksSource::new(file.to_str().unwrap());
            let job = tokio::spawn(run(Arc::clone(&verifier), source, intervals));
            assert_eq!(verifier.key_count(), None, "not read yet");
            let jwk = |id: &str| format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"{id}","x":"{}"}}"#, "A".repeat(43));
            std::fs::write(&file, format!(r#"{{"keys":[{}]}}"#, jwk("a"))).unwrap();
            until(|| verifier.key_count() == Some(1)).await;
            for broken in ["", "{}", "[]", "no JSON"] {
                std::fs::write(&file, broken).unwrap();
                tokio::time::sleep(short * 4).await;
                assert_eq!(verifier.key_count(), Some(1), "{broken}");
            }
            std::fs::remove_file(&file).unwrap();
            tokio::time::sleep(short * 4).await;
            assert_eq!(verifier.key_count(), Some(1));
            std::fs::write(&file, format!(r#"{{"keys":[{},{}]}}"#, jwk("a"), jwk("b"))).unwrap();
            until(|| verifier.key_count() == Some(2)).await;
            job.abort();
            std::fs::remove_file(&file).unwrap();
        });
    }
}
