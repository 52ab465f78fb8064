//! Whether the caller of a response that takes long still has access.

use std::sync::Arc;

use actix_web::HttpRequest;

use super::{
    access::{Allowed, RequiredScope, authenticator, credentials, refused},
    problem::Problem,
};
use crate::{
    auth::{Authenticator, Basis, Refusal},
    domain::Scope,
    service::{TicketGrant, clock},
};

/// Checks whether a caller still has a scope.
pub(super) struct Recheck {
    authenticator: Arc<Authenticator>,
    proof: Proof,
    scope: Scope,
}

/// What the caller has presented.
enum Proof {
    Credentials(Option<Vec<u8>>),
    /// What permitted the ticket.
    Ticket(Basis),
}

/// What a caller has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AccessLost {
    /// The credentials are no longer valid.
    Credentials,
    /// They no longer have the scope.
    Scope,
}

impl Recheck {
    /// Returns the check for the caller of a request.
    pub(super) fn of_caller<S: RequiredScope>(_: &Allowed<S>, request: &HttpRequest) -> Result<Self, Problem> {
        let authenticator = Arc::clone(authenticator(request)?);
        let credentials = credentials(request.headers()).map_err(refused)?.map(<[u8]>::to_vec);
        Ok(Self { authenticator, proof: Proof::Credentials(credentials), scope: S::SCOPE })
    }

    /// Returns the check for the holder of a ticket.
    pub(super) fn of_ticket(authenticator: Arc<Authenticator>, grant: &TicketGrant) -> Self {
        let basis = match (grant.key, grant.valid_until) {
            (Some(key), _) => Basis::Key(key),
            (None, Some(end)) => Basis::Until(end),
            (None, None) => Basis::Anyone,
        };
        Self { authenticator, proof: Proof::Ticket(basis), scope: grant.scope }
    }

    /// Checks whether the caller has the scope now. While keys cannot be read, known callers keep it.
    pub(super) fn check(&self) -> Result<(), AccessLost> {
        let scopes = match &self.proof {
            Proof::Ticket(basis) => self.authenticator.remaining_scopes(*basis, clock::now()),
            Proof::Credentials(credentials) => {
                match self.authenticator.authenticate(credentials.as_deref(), clock::now) {
                    Ok(caller) => Some(caller.scopes),
                    Err(Refusal::Unavailable | Refusal::NoSigningKeys) => return Ok(()),
                    Err(_) => None,
                }
            }
        };
        match scopes {
            Some(scopes) if scopes.contain(self.scope) => Ok(()),
            Some(_) => Err(AccessLost::Scope),
            None => Err(AccessLost::Credentials),
        }
    }
}
