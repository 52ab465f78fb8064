//! Access tokens of an identity provider: JSON Web Tokens (RFC 7519, RFC 9068), verified as RFC 8725 recommends.
//!
//! The provider's keys (JWKS) are fetched by a background job (`jobs::jwks_refresh`). A verified token is cached by
//! its digest until it expires, because verifying costs 13 to 62 µs and a digest a fraction of one.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use dashmap::DashMap;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{Jwk, JwkSet, PublicKeyUse},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use super::{Caller, Refusal, jws_crypto};
use crate::domain::{Actor, Scope, Scopes, Subject};

/// How far the clocks of the provider and of this service may differ.
const LEEWAY_SECONDS: u32 = 30;
/// The number of verified tokens that are cached: some megabytes.
const MAX_CACHED: usize = 10_000;
/// Maximum number of characters of a subject, as in OpenID Connect. It is logged, and recorded in the journal.
const MAX_SUBJECT: usize = 255;
/// Maximum number of bytes of a token. A longer one is refused before it is parsed.
const MAX_TOKEN_LENGTH: usize = 8 * 1024;

/// The claims that a token must have, and the algorithms that may sign it.
#[derive(Clone, Debug)]
pub struct TokenRules {
    /// `iss`.
    pub issuer: String,
    /// One of `aud`.
    pub audience: String,
    /// The allowed signature algorithms: only asymmetric ones.
    pub algorithms: Vec<Algorithm>,
    /// The claim with the scopes: a string, separated by spaces, or an array.
    pub scope_claim: String,
}

impl TokenRules {
    /// Parses the name of an asymmetric algorithm. `none` and the algorithms with a shared secret are not accepted:
    /// anyone who can verify a token could forge one.
    #[must_use]
    pub fn algorithm(name: &str) -> Option<Algorithm> {
        match name {
            "EdDSA" => Some(Algorithm::EdDSA),
            "ES256" => Some(Algorithm::ES256),
            "ES384" => Some(Algorithm::ES384),
            "RS256" => Some(Algorithm::RS256),
            "RS384" => Some(Algorithm::RS384),
            "RS512" => Some(Algorithm::RS512),
            "PS256" => Some(Algorithm::PS256),
            "PS384" => Some(Algorithm::PS384),
            "PS512" => Some(Algorithm::PS512),
            _ => None,
        }
    }
}

/// Verifies tokens.
pub struct TokenVerifier {
    rules: TokenRules,
    validation: Validation,
    keys: ArcSwap<SigningKeys>,
    cache: DashMap<[u8; 32], CachedToken>,
    /// Notified when a token names a key that is not known.
    unknown_key: Notify,
}

/// The keys of the provider, by their id.
#[derive(Default)]
struct SigningKeys {
    by_id: HashMap<Option<String>, SigningKey>,
    /// Whether they have been read at all.
    are_known: bool,
}

struct SigningKey {
    decoding: DecodingKey,
    /// The only algorithm that the key may be used with, if the provider says so.
    algorithm: Option<Algorithm>,
}

struct CachedToken {
    caller: Caller,
    ends_at: DateTime<Utc>,
    /// The keys with which it was verified. With others, it has to be verified again.
    keys: Arc<SigningKeys>,
}

/// The claims that this service reads.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    /// Seconds since 1970, possibly with a fraction.
    exp: f64,
    #[serde(flatten)]
    others: HashMap<String, serde_json::Value>,
}

impl TokenVerifier {
    /// Returns a verifier without keys.
    #[must_use]
    pub fn new(rules: TokenRules) -> Self {
        jws_crypto::install();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.algorithms.clone_from(&rules.algorithms);
        validation.set_issuer(&[&rules.issuer]);
        validation.set_audience(&[&rules.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = u64::from(LEEWAY_SECONDS);
        Self { rules, validation, keys: ArcSwap::default(), cache: DashMap::new(), unknown_key: Notify::new() }
    }

    /// Replaces the provider's keys by a JWK set. Returns how many of them can be used. Tokens that were verified with
    /// the previous keys have to be verified again.
    ///
    /// # Errors
    ///
    /// It is not a JWK set.
    pub fn replace_keys(&self, jwks: &[u8]) -> Result<usize, serde_json::Error> {
        let set: JwkSet = serde_json::from_slice(jwks)?;
        let key = |jwk: &Jwk| Some((jwk.common.key_id.clone(), signing_key(jwk)?));
        let by_id: HashMap<_, _> = set.keys.iter().filter_map(key).collect();
        let count = by_id.len();
        self.keys.store(Arc::new(SigningKeys { by_id, are_known: true }));
        self.cache.clear();
        Ok(count)
    }

    /// Returns how many keys are known; `None` if none have been read yet.
    #[must_use]
    pub fn key_count(&self) -> Option<usize> {
        let keys = self.keys.load();
        keys.are_known.then_some(keys.by_id.len())
    }

    /// Waits until a token names a key that is not known.
    pub async fn unknown_key(&self) {
        self.unknown_key.notified().await;
    }

    /// Forgets the tokens that have expired.
    pub fn forget_expired(&self, now: DateTime<Utc>) {
        self.cache.retain(|_, token| token.ends_at > now);
    }

    /// Decides who presents this token at this time.
    ///
    /// # Errors
    ///
    /// [`Refusal::Invalid`]; [`Refusal::NoSigningKeys`].
    pub(super) fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Caller, Refusal> {
        if token.len() > MAX_TOKEN_LENGTH {
            return Err(Refusal::Invalid);
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let cached = self.cache.get(&digest);
        if let Some(token) = cached.filter(|token| Arc::ptr_eq(&token.keys, &self.keys.load())) {
            return if token.ends_at > now { Ok(token.caller.clone()) } else { Err(Refusal::Invalid) };
        }
        let keys = self.keys.load_full();
        let (caller, ends_at) = self.verify_signature(token, &keys)?;
        // At the limit, tokens are verified each time until expired ones have been forgotten.
        if self.cache.len() < MAX_CACHED {
            self.cache.insert(digest, CachedToken { caller: caller.clone(), ends_at, keys });
        }
        Ok(caller)
    }

    fn verify_signature(&self, token: &str, keys: &SigningKeys) -> Result<(Caller, DateTime<Utc>), Refusal> {
        // Refuses extensions that must be understood (`crit`).
        let header = decode_header(token).map_err(|_| Refusal::Invalid)?;
        if !self.rules.algorithms.contains(&header.alg) {
            return Err(Refusal::Invalid);
        }
        let key = match (&header.kid, keys.by_id.len()) {
            (Some(_), _) => keys.by_id.get(&header.kid),
            // Without an id, it can only be the provider's only key.
            (None, 1) => keys.by_id.values().next(),
            (None, _) => None,
        };
        let Some(key) = key else {
            self.unknown_key.notify_one();
            return Err(if keys.are_known { Refusal::Invalid } else { Refusal::NoSigningKeys });
        };
        if key.algorithm.is_some_and(|algorithm| algorithm != header.alg) {
            return Err(Refusal::Invalid);
        }
        // Only the algorithm of the header, so that a key of one family is never used as one of another.
        let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
        let claims = decode::<Claims>(token, &key.decoding, &validation).map_err(|_| Refusal::Invalid)?.claims;
        if claims.sub.is_empty() || claims.sub.chars().count() > MAX_SUBJECT || claims.sub.chars().any(char::is_control)
        {
            return Err(Refusal::Invalid);
        }
        let ends_at = ends_at(claims.exp).ok_or(Refusal::Invalid)?;
        let scopes = claims.others.get(&self.rules.scope_claim).map(scopes).unwrap_or_default();
        let subject = Subject { issuer: claims.iss.into(), id: claims.sub.into() };
        Ok((Caller { actor: Actor::Subject(subject), scopes, valid_until: Some(ends_at) }, ends_at))
    }
}

/// Returns when a token with this expiry is refused.
fn ends_at(exp: f64) -> Option<DateTime<Utc>> {
    let milliseconds = (exp + f64::from(LEEWAY_SECONDS)) * 1000.0;
    // Beyond what a number of this type can say exactly, no time makes sense.
    #[expect(clippy::cast_possible_truncation, reason = "it is in the range")]
    let milliseconds = (milliseconds.abs() < 9e15).then_some(milliseconds as i64)?;
    DateTime::from_timestamp_millis(milliseconds)
}

/// Returns the scopes of a claim. Those of other services are ignored.
fn scopes(claim: &serde_json::Value) -> Scopes {
    let names: Vec<&str> = match claim {
        serde_json::Value::String(names) => names.split(' ').collect(),
        serde_json::Value::Array(names) => names.iter().filter_map(serde_json::Value::as_str).collect(),
        _ => Vec::new(),
    };
    names.into_iter().filter_map(|name| name.parse::<Scope>().ok()).collect()
}

/// Returns a key for signatures; `None` if it is for something else, or of a kind that is not supported.
fn signing_key(jwk: &Jwk) -> Option<SigningKey> {
    if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
        return None;
    }
    let algorithm = match &jwk.common.key_algorithm {
        Some(name) => Some(TokenRules::algorithm(&name.to_string())?),
        None => None,
    };
    // A symmetric key has no place in a public set.
    let is_symmetric = matches!(jwk.algorithm, jsonwebtoken::jwk::AlgorithmParameters::OctetKey(_));
    let decoding = DecodingKey::from_jwk(jwk).ok().filter(|_| !is_symmetric)?;
    Some(SigningKey { decoding, algorithm })
}
