//! Access control of routes: authenticates the caller, limits its rate, and checks the scope that the route requires.
//!
//! The handler of a protected route takes an [`Allowed`], or one of its variants, first. Its type names the scope.

use std::{
    borrow::Cow,
    future::{Ready, ready},
    marker::PhantomData,
    sync::Arc,
    time::Duration,
};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::header::{self, HeaderMap, HeaderName},
    web,
};

use super::{
    client_address::client_address,
    path,
    problem::{Kind, Problem},
    request_info::RequestInfo,
};
use crate::{
    auth::{Authenticator, Basis, Caller, Limited, RateLimits, Refusal},
    domain::{Actor, ApiKey, Author, Scope, Scopes, Subject, UserId},
    exchange::{self, query_parameters},
    service::clock,
};

/// The remaining quota of the caller (draft-ietf-httpapi-ratelimit-headers-10).
pub(super) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// The scheme of credentials in `Authorization`, with the space after it.
const BEARER: &[u8] = b"Bearer ";
pub(super) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A caller who has the scope `S`.
pub(super) struct Allowed<S> {
    caller: Caller,
    scope: PhantomData<S>,
}

impl<S> Allowed<S> {
    /// Returns what the caller may do.
    pub(super) fn scopes(&self) -> Scopes {
        self.caller.scopes
    }

    /// Charges the caller for a request that costs more than others.
    pub(super) fn charge(&self, request: &HttpRequest, more: u32) -> Result<(), Problem> {
        if self.caller.actor == Actor::Anyone {
            return Ok(());
        }
        charge(request, authenticator(request)?, &self.caller.actor, more, RateLimits::SINGLE)
    }

    /// Returns what has to remain valid while the response is sent.
    pub(super) fn basis(&self) -> Basis {
        self.caller.basis()
    }

    /// Returns who the caller is.
    pub(super) fn actor(&self) -> &Actor {
        &self.caller.actor
    }

    /// Returns the caller as the author of the changes that this request makes.
    pub(super) fn into_author(self, request: &HttpRequest) -> Author {
        author(request, self.caller)
    }
}

fn author(request: &HttpRequest, caller: Caller) -> Author {
    Author { actor: caller.actor, request_id: RequestInfo::of(request).map(|info| info.id().into()) }
}

/// A scope as a type.
pub(super) trait RequiredScope: 'static {
    const SCOPE: Scope;
}

macro_rules! required_scopes {
    ($($name:ident),*) => {$(
        /// The scope of the same name.
        pub(super) struct $name;

        impl RequiredScope for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )*};
}

required_scopes!(UsersRead, UsersWrite, UsersDelete, UsersBulk, FeedRead, MessagesSend, OpsRead, KeysAdmin);

impl<S: RequiredScope> FromRequest for Allowed<S> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let caller = authorize(request, S::SCOPE, |_| false);
        ready(caller.map(|caller| Self { caller, scope: PhantomData }))
    }
}

/// A caller who has the scope `S`, or the scope `users:self` and is the user in the path.
pub(super) struct AllowedOrSelf<S> {
    caller: Caller,
    scope: PhantomData<S>,
}

impl<S> AllowedOrSelf<S> {
    /// Returns the caller as the author of the changes that this request makes.
    pub(super) fn into_author(self, request: &HttpRequest) -> Author {
        author(request, self.caller)
    }
}

impl<S: RequiredScope> FromRequest for AllowedOrSelf<S> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let caller = authorize(request, S::SCOPE, |caller| is_self(request, caller));
        ready(caller.map(|caller| Self { caller, scope: PhantomData }))
    }
}

/// A caller who has the scope `S`, or the scope `users:self` for the user that it is.
pub(super) struct AllowedOrSubject<S> {
    caller: Caller,
    scope: PhantomData<S>,
}

impl<S: RequiredScope> AllowedOrSubject<S> {
    /// Returns the scope that permits a request for a user, or for all users.
    pub(super) fn scope_for(&self, user: Option<UserId>) -> Result<Scope, Problem> {
        if self.caller.scopes.contain(S::SCOPE) {
            return Ok(S::SCOPE);
        }
        match subject_user(&self.caller) {
            Some(subject) if user.is_none_or(|user| user == subject) => Ok(Scope::UsersSelf),
            _ => Err(scope_missing(S::SCOPE)),
        }
    }

    /// Returns the user that the caller is, unless it has the scope `S`.
    pub(super) fn subject(&self) -> Option<UserId> {
        if self.caller.scopes.contain(S::SCOPE) { None } else { subject_user(&self.caller) }
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl<S: RequiredScope> FromRequest for AllowedOrSubject<S> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let caller = authorize(request, S::SCOPE, |caller| subject_user(caller).is_some());
        ready(caller.map(|caller| Self { caller, scope: PhantomData }))
    }
}

/// A caller who has the scope `S`, or a ticket, which is verified later: a browser's script can read the reason of a
/// refusal only once its WebSocket is open.
pub(super) enum AllowedOrTicket<S> {
    Allowed(Allowed<S>),
    Ticket(String),
}

query_parameters! {
    /// The authentication of a browser, whose scripts cannot send credentials with every request.
    pub(super) struct TicketParameters {
        /// A ticket of `POST /ws/tickets`, for browsers, which cannot send credentials. An invalid one closes the connection
        /// with the code 4401.
        ticket: Option<String>,
    }
}

impl<S: RequiredScope> FromRequest for AllowedOrTicket<S> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let parameters = match exchange::read(request.query_string()) {
            Ok(TicketParameters { ticket: Some(ticket) }) => return ready(Ok(Self::Ticket(ticket))),
            parameters => parameters.map(drop).map_err(Problem::from),
        };
        // A caller without credentials is not informed of other faults.
        let allowed = Allowed::from_request(request, payload).into_inner();
        ready(allowed.and_then(|allowed| parameters.map(|()| Self::Allowed(allowed))))
    }
}

/// Returns the user that the caller is, if it may act as that.
fn subject_user(caller: &Caller) -> Option<UserId> {
    let Actor::Subject(Subject { id, .. }) = &caller.actor else { return None };
    caller.scopes.contain(Scope::UsersSelf).then(|| id.parse().ok()).flatten()
}

/// Returns whether the caller is the user in the path. Both are compared as ids, which can be written in several ways.
fn is_self(request: &HttpRequest, caller: &Caller) -> bool {
    let user: Option<UserId> = path::parameter(request, "id").parse().ok();
    user.is_some() && user == subject_user(caller)
}

/// Returns the caller of a request if it has a scope, or if something else permits the request.
fn authorize(
    request: &HttpRequest,
    scope: Scope,
    is_permitted: impl FnOnce(&Caller) -> bool,
) -> Result<Caller, Problem> {
    let authenticator = authenticator(request)?;
    if !authenticator.is_required() {
        // Nothing is noted or limited: who the caller is, is unknown.
        let caller = authenticator.authenticate(None, clock::now).map_err(refused)?;
        return if caller.scopes.contain(scope) { Ok(caller) } else { Err(authentication_off(scope)) };
    }
    let credentials = credentials(request.headers()).map_err(|refusal| note_refusal(request, refusal, None))?;
    let caller = authenticator
        .authenticate(credentials, clock::now)
        .map_err(|refusal| note_refusal(request, refusal, credentials))?;
    if let Some(info) = RequestInfo::of(request) {
        // The first extractor of a request sets it.
        let _ = info.actor.set(caller.actor.clone());
    }
    charge(request, authenticator, &caller.actor, RateLimits::SINGLE, 0)?;
    if caller.scopes.contain(scope) || is_permitted(&caller) {
        return Ok(caller);
    }
    note_address(request);
    Err(scope_missing(scope))
}

pub(super) fn authenticator(request: &HttpRequest) -> Result<&Arc<Authenticator>, Problem> {
    let authenticator = request.app_data::<web::Data<Authenticator>>();
    authenticator.map(|it| &**it).ok_or_else(|| Problem::internal("the Authenticator is not in the app data"))
}

/// Charges a caller for a request, of which a part has been charged before.
fn charge(
    request: &HttpRequest,
    authenticator: &Authenticator,
    caller: &Actor,
    weight: u32,
    before: u32,
) -> Result<(), Problem> {
    let info = RequestInfo::of(request);
    let remaining = authenticator.limits().charge(caller, weight, before).map_err(|Limited { retry_after }| {
        note_address(request);
        if let Some(info) = &info {
            // What remains is known if the request has been charged before for a part of its weight.
            info.remaining.set(Some(info.remaining.get().unwrap_or(0)));
        }
        too_many("The caller has made too many requests.", retry_after)
    })?;
    if let Some(info) = info {
        info.remaining.set(remaining);
    }
    Ok(())
}

/// Returns the problem of a refused caller, and counts invalid credentials.
fn note_refusal(request: &HttpRequest, refusal: Refusal, credentials: Option<&[u8]>) -> Problem {
    note_address(request);
    if let (Some(info), Some(key)) = (RequestInfo::of(request), credentials.and_then(ApiKey::parse)) {
        info.refused_key.set(Some(key.id));
    }
    if let (Refusal::Invalid, Ok(authenticator), Some(address)) =
        (refusal, authenticator(request), client_address(request))
        && let Err(Limited { retry_after }) = authenticator.limits().credentials_invalid(address)
    {
        return too_many("This address has sent too many invalid credentials.", retry_after);
    }
    refused(refusal)
}

/// Notes for the log where the request of a refused caller comes from.
fn note_address(request: &HttpRequest) {
    if let Some(info) = RequestInfo::of(request) {
        info.refused_address.set(client_address(request));
    }
}

fn too_many(detail: &'static str, retry_after: Duration) -> Problem {
    // Rounded up: an earlier request would be refused.
    let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
    Problem::new(Kind::RateLimited, detail).with_header(header::RETRY_AFTER, seconds.to_string())
}

/// Returns the credentials of a request: one bearer token (RFC 6750) or one `X-API-Key`.
fn credentials(headers: &HeaderMap) -> Result<Option<&[u8]>, Refusal> {
    let mut authorization = headers.get_all(header::AUTHORIZATION);
    let mut api_key = headers.get_all(API_KEY);
    match (authorization.next(), api_key.next()) {
        (None, None) => Ok(None),
        (Some(value), None) if authorization.next().is_none() => {
            let (scheme, token) = value.as_bytes().split_at_checked(BEARER.len()).ok_or(Refusal::Invalid)?;
            if scheme.eq_ignore_ascii_case(BEARER) { Ok(Some(token)) } else { Err(Refusal::Invalid) }
        }
        (None, Some(value)) if api_key.next().is_none() => Ok(Some(value.as_bytes())),
        _ => Err(Refusal::Invalid),
    }
}

fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Missing => {
            let detail = "Send an API key or an access token: Authorization: Bearer …, or X-API-Key: ….";
            challenge(Kind::CredentialsRequired, detail, "Bearer realm=\"users-api\"".to_owned())
        }
        Refusal::Invalid => {
            let detail = "The API key or access token is malformed, unknown, revoked or expired.";
            challenge(
                Kind::CredentialsInvalid,
                detail,
                "Bearer realm=\"users-api\", error=\"invalid_token\"".to_owned(),
            )
        }
        Refusal::Unavailable => {
            Problem::new(Kind::DatabaseUnavailable, "The API keys cannot be read from the database now. Retry later.")
        }
        Refusal::NoSigningKeys => Problem::new(
            Kind::IdentityProviderUnavailable,
            "The signing keys of the identity provider have not been read yet. Retry later.",
        ),
    }
}

fn authentication_off(scope: Scope) -> Problem {
    let detail =
        format!("The scope {scope} needs authentication (auth.mode = required). On this machine, use users-api keys.");
    Problem::new(Kind::ScopeMissing, detail)
}

/// Refuses a caller who lacks a scope.
pub(super) fn scope_missing(scope: Scope) -> Problem {
    let detail = format!("The API key or access token does not have the scope {scope}.");
    let challenge_value = format!("Bearer realm=\"users-api\", error=\"insufficient_scope\", scope=\"{scope}\"");
    challenge(Kind::ScopeMissing, detail, challenge_value)
}

fn challenge(kind: Kind, detail: impl Into<Cow<'static, str>>, value: String) -> Problem {
    Problem::new(kind, detail).with_header(header::WWW_AUTHENTICATE, value)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn one_bearer_token_or_one_api_key_is_read() {
        let of = |headers: &[(&str, &str)]| {
            let mut request = TestRequest::default();
            for header in headers {
                request = request.append_header(*header);
            }
            let request = request.to_http_request();
            credentials(request.headers()).map(|found| found.map(|it| String::from_utf8(it.to_vec()).unwrap()))
        };
        let token = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("authorization", "Bearer a")]), token("a"));
        assert_eq!(of(&[("authorization", "bEARER a")]), token("a"));
        assert_eq!(of(&[("x-api-key", "a")]), token("a"));
        // Kept as they are, so that they match no key.
        assert_eq!(of(&[("authorization", "Bearer  a")]), token(" a"));
        for refused in [
            &[("authorization", "Basic a")][..],
            &[("authorization", "a")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer\ta")],
            &[("authorization", "Bearer a"), ("authorization", "Bearer a")],
            &[("x-api-key", "a"), ("x-api-key", "a")],
            &[("authorization", "Bearer a"), ("x-api-key", "a")],
        ] {
            assert_eq!(of(refused), Err(Refusal::Invalid), "{refused:?}");
        }
    }
}
