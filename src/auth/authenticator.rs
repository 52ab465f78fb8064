//! The keys in memory, and the decision on each request.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};

use super::{RateLimits, TokenVerifier};
use crate::domain::{Actor, ApiKey, KeyId, Scopes};

/// A key as it is stored.
#[derive(Clone)]
pub struct StoredKey {
    /// Its id, and the digest that proves it.
    pub key: ApiKey,
    /// The scopes of its holder.
    pub scopes: Scopes,
    /// When it expires.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A caller that is authenticated, or need not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its identity.
    pub actor: Actor,
    /// Its scopes.
    pub scopes: Scopes,
    /// When its access token expires.
    pub valid_until: Option<DateTime<Utc>>,
}

impl Caller {
    /// Returns what has to remain valid, while the caller does something that takes long.
    #[must_use]
    pub fn basis(&self) -> Basis {
        match (&self.actor, self.valid_until) {
            (Actor::Key(id), _) => Basis::Key(*id),
            (_, Some(end)) => Basis::Until(end),
            (_, None) => Basis::Anyone,
        }
    }
}

/// The basis of a caller's access. It must remain valid while the caller does something that takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Anyone may, unless authentication is required.
    Anyone,
    /// An API key.
    Key(KeyId),
    /// An access token, until it expires.
    Until(DateTime<Utc>),
}

/// The reason why a caller is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request has no credentials.
    Missing,
    /// The credentials are malformed, unknown, revoked or expired. The response does not say which.
    Invalid,
    /// The keys could not be read lately, so that an unknown key may be a valid one.
    Unavailable,
    /// The signing keys of the identity provider have not been read yet.
    NoSigningKeys,
}

/// Decides who is calling, from the keys in memory.
pub struct Authenticator {
    is_required: bool,
    /// How long the keys may be used after they were read.
    stale: Duration,
    keys: ArcSwap<Keys>,
    /// Whether the last attempt to read the keys succeeded.
    is_current: AtomicBool,
    tokens: Option<Arc<TokenVerifier>>,
    limits: RateLimits,
}

struct Keys {
    by_id: HashMap<KeyId, Key>,
    read_at: Instant,
}

struct Key {
    stored: StoredKey,
    /// When it was last used, in seconds since 1970; 0 if not since it was read.
    last_used: AtomicI64,
}

impl Authenticator {
    /// Returns an authenticator without keys. Access tokens are accepted if there is a verifier. Unless authentication is
    /// required, every caller may do everything but manage keys.
    #[must_use]
    pub fn new(is_required: bool, stale: Duration, tokens: Option<Arc<TokenVerifier>>, limits: RateLimits) -> Self {
        let keys = Keys { by_id: HashMap::new(), read_at: Instant::now() };
        Self {
            is_required,
            stale,
            keys: ArcSwap::from_pointee(keys),
            is_current: AtomicBool::new(false),
            tokens,
            limits,
        }
    }

    /// Returns whether callers have to authenticate.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.is_required
    }

    /// Returns the limits of callers.
    #[must_use]
    pub fn limits(&self) -> &RateLimits {
        &self.limits
    }

    /// Replaces the keys. Returns the ids of those that were used since the last replacement, and when.
    pub fn replace_keys(&self, stored: Vec<StoredKey>) -> Vec<(KeyId, DateTime<Utc>)> {
        let new = |stored: StoredKey| (stored.key.id, Key { stored, last_used: AtomicI64::new(0) });
        let keys = Keys { by_id: stored.into_iter().map(new).collect(), read_at: Instant::now() };
        let previous = self.keys.swap(Arc::new(keys));
        self.is_current.store(true, Ordering::Release);
        let used = |key: &Key| {
            let at = key.last_used.load(Ordering::Relaxed);
            (at > 0).then(|| DateTime::from_timestamp(at, 0).map(|at| (key.stored.key.id, at))).flatten()
        };
        previous.by_id.values().filter_map(used).collect()
    }

    /// Notes that the keys could not be read.
    pub fn keys_unavailable(&self) {
        self.is_current.store(false, Ordering::Release);
    }

    /// Decides who is calling at this time, with these credentials.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub fn authenticate(&self, credentials: Option<&[u8]>, now: impl Fn() -> DateTime<Utc>) -> Result<Caller, Refusal> {
        if !self.is_required {
            return Ok(Caller { actor: Actor::Anyone, scopes: Scopes::ALL_OF_ANYONE, valid_until: None });
        }
        let credentials = credentials.ok_or(Refusal::Missing)?;
        let Some(presented) = ApiKey::parse(credentials) else {
            let token = std::str::from_utf8(credentials).map_err(|_| Refusal::Invalid)?;
            return self.tokens.as_ref().ok_or(Refusal::Invalid)?.verify(token, now());
        };
        let keys = self.keys.load();
        let is_current = self.is_current.load(Ordering::Acquire);
        if !is_current && keys.read_at.elapsed() > self.stale {
            return Err(Refusal::Unavailable);
        }
        let unknown = if is_current { Refusal::Invalid } else { Refusal::Unavailable };
        let key = keys.by_id.get(&presented.id).ok_or(unknown)?;
        // A wrong secret of a known id can never become right.
        if !key.stored.key.digest.matches(&presented.digest) {
            return Err(Refusal::Invalid);
        }
        let now = now();
        if key.stored.expires_at.is_some_and(|expiry| expiry <= now) {
            return Err(Refusal::Invalid);
        }
        key.last_used.store(now.timestamp(), Ordering::Relaxed);
        Ok(Caller { actor: Actor::Key(key.stored.key.id), scopes: key.stored.scopes, valid_until: None })
    }

    /// Returns the scopes that a caller who was authenticated before still has; `None` if the caller no longer has access.
    #[must_use]
    pub fn remaining_scopes(&self, basis: Basis, now: DateTime<Utc>) -> Option<Scopes> {
        match basis {
            Basis::Anyone => (!self.is_required).then_some(Scopes::ALL_OF_ANYONE),
            Basis::Until(end) => (now < end).then_some(Scopes::ALL),
            Basis::Key(id) => match self.keys.load().by_id.get(&id) {
                Some(key) if key.stored.expires_at.is_some_and(|expiry| expiry <= now) => None,
                Some(key) => Some(key.stored.scopes),
                None => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::{auth::Rate, domain::Scope};

    const STALE: Duration = Duration::from_hours(1);

    fn time(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn stored(key: ApiKey, expires_at: Option<DateTime<Utc>>) -> StoredKey {
        StoredKey { key, scopes: std::iter::once(Scope::UsersRead).collect(), expires_at }
    }

    fn new(is_required: bool, stale: Duration) -> Authenticator {
        Authenticator::new(is_required, stale, None, RateLimits::new(Rate::NONE, 1, Rate::NONE))
    }

    fn required(stale: Duration) -> (Authenticator, ApiKey, String) {
        let authenticator = new(true, stale);
        let (key, text) = ApiKey::generate().unwrap();
        authenticator.replace_keys(vec![stored(key, Some(time(10)))]);
        (authenticator, key, text)
    }

    #[test]
    fn a_known_key_works_until_it_expires() {
        let (authenticator, key, text) = required(STALE);
        let caller = authenticator.authenticate(Some(text.as_bytes()), || time(9)).unwrap();
        assert_eq!(caller.actor, Actor::Key(key.id));
        assert!(caller.scopes.contain(Scope::UsersRead) && !caller.scopes.contain(Scope::UsersWrite));
        assert_eq!(authenticator.authenticate(Some(text.as_bytes()), || time(10)), Err(Refusal::Invalid));
        assert_eq!(authenticator.authenticate(None, || time(0)), Err(Refusal::Missing));
        assert_eq!(authenticator.authenticate(Some(b"uak_"), || time(0)), Err(Refusal::Invalid));
    }

    #[test]
    fn the_secret_decides_and_not_the_id() {
        let (authenticator, key, _) = required(STALE);
        let (other, text) = ApiKey::generate().unwrap();
        let mixed = ApiKey { id: other.id, digest: key.digest };
        authenticator.replace_keys(vec![stored(mixed, None)]);
        assert_eq!(authenticator.authenticate(Some(text.as_bytes()), || time(0)), Err(Refusal::Invalid));
    }

    #[test]
    fn while_keys_cannot_be_read_known_ones_work_and_unknown_ones_are_not_wrong() {
        let (authenticator, _, text) = required(STALE);
        let (_, unknown) = ApiKey::generate().unwrap();
        assert_eq!(authenticator.authenticate(Some(unknown.as_bytes()), || time(0)), Err(Refusal::Invalid));
        authenticator.keys_unavailable();
        assert!(authenticator.authenticate(Some(text.as_bytes()), || time(0)).is_ok());
        assert_eq!(authenticator.authenticate(Some(unknown.as_bytes()), || time(0)), Err(Refusal::Unavailable));
        let (authenticator, _, text) = required(Duration::ZERO);
        assert!(
            authenticator.authenticate(Some(text.as_bytes()), || time(0)).is_ok(),
            "stale applies to failed refreshes only"
        );
        authenticator.keys_unavailable();
        assert_eq!(authenticator.authenticate(Some(text.as_bytes()), || time(0)), Err(Refusal::Unavailable));
    }

    #[test]
    fn uses_are_reported_once() {
        let (authenticator, key, text) = required(STALE);
        let now = time(0) + TimeDelta::milliseconds(900);
        authenticator.authenticate(Some(text.as_bytes()), || now).unwrap();
        assert_eq!(authenticator.replace_keys(vec![stored(key, None)]), [(key.id, time(0))]);
        assert_eq!(authenticator.replace_keys(vec![stored(key, None)]), []);
    }

    #[test]
    fn without_authentication_every_caller_may_do_everything_but_manage_keys() {
        let caller = new(false, STALE).authenticate(Some(b"anything"), || time(0)).unwrap();
        assert_eq!((caller.actor, caller.scopes), (Actor::Anyone, Scopes::ALL_OF_ANYONE));
    }
}
