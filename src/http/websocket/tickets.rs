//! The tickets of a connection, and their grants.

use std::{net::IpAddr, sync::Arc};

use actix_http::ws::CloseCode;

use super::{
    frames::{CLOSE_RATE_LIMITED, Violation},
    messages::MessageError,
};
use crate::{
    auth::Authenticator,
    domain::{TicketDigest, UserId},
    error_chain::chain,
    feed::Filter,
    http::recheck::{AccessLost, Recheck},
    service::{TicketGrant, TicketStore},
};

const CREDENTIALS_INVALID: CloseCode = CloseCode::Other(4401);
const SCOPE_MISSING: CloseCode = CloseCode::Other(4403);

/// The tickets of a connection: the first one, and those that renew it.
pub(super) struct Tickets {
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) store: TicketStore,
    /// The address of the client.
    pub(super) address: Option<IpAddr>,
    /// The grant of the latest ticket.
    pub(super) grant: Option<TicketGrant>,
}

impl Tickets {
    /// Uses a ticket. Returns what has to remain valid, or why the connection must be closed. A ticket that renews another
    /// one must be for the same caller and user.
    pub(super) async fn redeem(&mut self, ticket: &str) -> Result<Recheck, Violation> {
        let redeemed = match TicketDigest::of(ticket) {
            Some(digest) => self.store.redeem(digest).await,
            None => Ok(None),
        };
        let redeemed = redeemed.map_err(|error| {
            tracing::debug!(error = chain(&error), "cannot use a ticket");
            Violation::new(CloseCode::Again, "the database is unavailable; connect again with another ticket")
        })?;
        let grant = redeemed.ok_or_else(|| self.note_invalid())?;
        if self.grant.as_ref().is_some_and(|first| (&first.actor, first.user) != (&grant.actor, grant.user)) {
            return Err(Violation::new(SCOPE_MISSING, "the ticket is for another caller or user"));
        }
        let recheck = Recheck::of_ticket(Arc::clone(&self.authenticator), &grant);
        recheck.check()?;
        self.grant = Some(grant);
        Ok(recheck)
    }

    /// Counts an invalid ticket of this address.
    fn note_invalid(&self) -> Violation {
        let limits = self.authenticator.limits();
        if self.address.is_some_and(|address| limits.credentials_invalid(address).is_err()) {
            return Violation::new(CLOSE_RATE_LIMITED, "this address has sent too many invalid tickets");
        }
        Violation::new(CREDENTIALS_INVALID, "the ticket is unknown, expired or was used before")
    }

    /// Returns the user that the tickets are for.
    pub(super) fn user(&self) -> Option<UserId> {
        self.grant.as_ref().and_then(|grant| grant.user)
    }

    /// Restricts what is read to the user of the ticket.
    pub(super) fn restrict(&self, filter: Filter) -> Result<Filter, MessageError> {
        let Some(user) = self.user() else { return Ok(filter) };
        if filter.users.is_some_and(|users| users.iter().any(|other| *other != user)) {
            return Err(MessageError::invalid(format!("ids: the ticket is for {user} only")));
        }
        Ok(Filter { users: Some(vec![user]), receiver: Some(user), ..filter })
    }
}

impl From<AccessLost> for Violation {
    fn from(lost: AccessLost) -> Self {
        match lost {
            AccessLost::Credentials => Self::new(CREDENTIALS_INVALID, "the credentials are no longer valid"),
            AccessLost::Scope => Self::new(SCOPE_MISSING, "the credentials no longer have the scope"),
        }
    }
}
