//! Authentication, scopes and rate limits. Uses neither HTTP nor the ORM.
//!
//! A caller presents an API key ([`ApiKey`](crate::domain::ApiKey)). The [`Authenticator`] compares its digest with
//! those of all keys, which it holds in memory: a request costs one SHA-256 and one look-up, no statement and no lock.
//! A background job (`jobs::key_refresh`) replaces the keys every `auth.refresh`, so a revoked key works for at most
//! that time. While the database is down, known keys work for `auth.stale`, and unknown ones get a 503.
//!
//! Or a caller presents an access token of an identity provider, which [`TokenVerifier`] verifies.
//!
//! [`RateLimits`] bounds the requests of each caller, and invalid credentials from each address.

mod authenticator;
mod jwks_source;
mod jws_crypto;
mod jwt;
mod rate_limit;

pub use self::{
    authenticator::{Authenticator, Basis, Caller, Refusal, StoredKey},
    jwks_source::JwksSource,
    jwt::{TokenRules, TokenVerifier},
    rate_limit::{Limited, Rate, RateLimits},
};
