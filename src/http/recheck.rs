//! The check that the caller of a response that takes long still has access.

use std::sync::Arc;

use actix_web::HttpRequest;

use super::{
    access::{Allowed, RequiredScope, authenticator},
    problem::Problem,
};
use crate::{
    auth::{Authenticator, Basis},
    domain::Scope,
    service::{TicketGrant, clock},
};

/// Checks whether a caller still has a scope.
pub(super) struct Recheck {
    authenticator: Arc<Authenticator>,
    basis: Basis,
    scope: Scope,
}

/// The reason why a caller has lost access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AccessLost {
    /// The credentials are no longer valid.
    Credentials,
    /// They no longer have the scope.
    Scope,
}

impl Recheck {
    /// Returns the check for the caller of a request.
    pub(super) fn of_caller<S: RequiredScope>(caller: &Allowed<S>, request: &HttpRequest) -> Result<Self, Problem> {
        Ok(Self { authenticator: Arc::clone(authenticator(request)?), basis: caller.basis(), scope: S::SCOPE })
    }

    /// Returns the check for the holder of a ticket.
    pub(super) fn of_ticket(authenticator: Arc<Authenticator>, grant: &TicketGrant) -> Self {
        let basis = match (grant.key, grant.valid_until) {
            (Some(key), _) => Basis::Key(key),
            (None, Some(end)) => Basis::Until(end),
            (None, None) => Basis::Anyone,
        };
        Self { authenticator, basis, scope: grant.scope }
    }

    /// Checks whether the caller has the scope now. While keys cannot be read, those that were read last decide.
    pub(super) fn check(&self) -> Result<(), AccessLost> {
        match self.authenticator.remaining_scopes(self.basis, clock::now()) {
            Some(scopes) if scopes.contain(self.scope) => Ok(()),
            Some(_) => Err(AccessLost::Scope),
            None => Err(AccessLost::Credentials),
        }
    }
}
