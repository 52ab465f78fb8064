//! Lists: `limit` and `cursor`, or `email`, in; `Link` out.

use std::fmt::Write as _;

use actix_web::{FromRequest, HttpRequest, dev::Payload, web};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use url::form_urlencoded;
use uuid::Uuid;

use super::problem::{FieldError, Kind, Problem};
use crate::{
    domain::{Email, Fault, UserId},
    service::{Position, Slice},
};

const DEFAULT_LIMIT: u64 = 20;
const MAX_LIMIT: u64 = 100;
const DEFAULT_KEY: &str = "users-api";

/// Signs cursors, so that one which was made up or mangled is told from one of ours. A cursor says which id a page
/// follows or precedes; that is no secret, hence a signature and no encryption.
#[derive(Clone)]
pub struct CursorSigner {
    mac: Hmac<Sha256>,
}

impl CursorSigner {
    /// A signer with this key; the built-in one if it is empty.
    #[must_use]
    pub fn new(key: &str) -> Self {
        let key = if key.is_empty() { DEFAULT_KEY } else { key };
        let Ok(mac) = Hmac::new_from_slice(key.as_bytes()) else { unreachable!("HMAC takes keys of any length") };
        Self { mac }
    }

    fn encode(&self, direction: Direction, id: UserId) -> String {
        let mut bytes = [0; PAYLOAD + SIGNATURE];
        bytes[0] = direction as u8;
        bytes[1..PAYLOAD].copy_from_slice(id.as_uuid().as_bytes());
        let signature = self.sign(&bytes[..PAYLOAD]);
        bytes[PAYLOAD..].copy_from_slice(&signature);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn decode(&self, text: &str) -> Option<Position> {
        // A base64 text has several spellings of its last bits; only ours is taken.
        let bytes: [u8; PAYLOAD + SIGNATURE] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (payload, signature) = bytes.split_at(PAYLOAD);
        self.mac.clone().chain_update(payload).verify_truncated_left(signature).ok()?;
        let id = UserId::from(Uuid::from_slice(&payload[1..]).ok()?);
        match payload[0] {
            tag if tag == Direction::After as u8 => Some(Position::After(id)),
            tag if tag == Direction::Before as u8 => Some(Position::Before(id)),
            _ => None,
        }
    }

    fn sign(&self, payload: &[u8]) -> [u8; SIGNATURE] {
        let whole = self.mac.clone().chain_update(payload).finalize().into_bytes();
        let mut signature = [0; SIGNATURE];
        signature.copy_from_slice(&whole[..SIGNATURE]);
        signature
    }
}

const PAYLOAD: usize = 17;
const SIGNATURE: usize = 16;

/// The first byte of a cursor. The numbers are in clients' hands; they never change their meaning.
#[derive(Clone, Copy)]
enum Direction {
    After = 1,
    Before = 2,
}

/// Which users are asked for.
pub(super) enum ListQuery {
    /// Those of a page.
    Page(PageQuery),
    /// The one with this email.
    Email(Email),
}

/// Which page is asked for.
pub(super) struct PageQuery {
    pub(super) limit: u64,
    pub(super) position: Position,
}

impl FromRequest for ListQuery {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let parsed = match request.app_data::<web::Data<CursorSigner>>() {
            Some(signer) => Self::parse(request.query_string(), signer),
            None => Err(Problem::internal("no cursor signer is wired")),
        };
        std::future::ready(parsed)
    }
}

impl ListQuery {
    fn parse(query: &str, signer: &CursorSigner) -> Result<Self, Problem> {
        let (mut limit, mut cursor, mut email) = (None, None, None);
        let mut errors = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match name.as_ref() {
                "limit" => &mut limit,
                "cursor" => &mut cursor,
                "email" => &mut email,
                _ => {
                    errors.push(FieldError::at_parameter(
                        &name,
                        Fault::new(
                            "unknown-parameter",
                            "there is no such parameter; there are limit, cursor and email",
                        ),
                    ));
                    continue;
                }
            };
            if place.replace(value.into_owned()).is_some() {
                let fault = Fault::new("duplicate-parameter", "the parameter is given more than once");
                errors.push(FieldError::at_parameter(&name, fault));
            }
        }
        let limit = match limit.as_deref().map(str::parse::<u64>) {
            None => DEFAULT_LIMIT,
            Some(Ok(limit @ 1..=MAX_LIMIT)) => limit,
            Some(_) => {
                let fault = Fault::new("out-of-range", format!("limit is a whole number from 1 to {MAX_LIMIT}"));
                errors.push(FieldError::at_parameter("limit", fault));
                DEFAULT_LIMIT
            }
        };
        let email = match email.as_deref().map(Email::parse) {
            None => None,
            Some(Ok(email)) => Some(email),
            Some(Err(fault)) => {
                errors.push(FieldError::at_parameter("email", fault));
                None
            }
        };
        if email.is_some() && cursor.is_some() {
            let fault = Fault::new("conflicting-parameter", "a cursor leads through a list; an email has one user");
            errors.push(FieldError::at_parameter("cursor", fault));
        }
        if let Some(first) = errors.first() {
            let detail = format!("Parameter {}: {}.", first.parameter.as_deref().unwrap_or_default(), first.message);
            return Err(Problem::with_errors(Kind::InvalidQuery, detail, errors));
        }
        if let Some(email) = email {
            return Ok(Self::Email(email));
        }
        let position = match cursor {
            None => Position::First,
            Some(cursor) => signer.decode(&cursor).ok_or_else(|| {
                let detail = "Cursors come from the Link header of an earlier answer, and are used as they are.";
                Problem::new(Kind::InvalidCursor, detail)
            })?,
        };
        Ok(Self::Page(PageQuery { limit, position }))
    }
}

impl PageQuery {
    /// The `Link` header (RFC 8288) of this page.
    pub(super) fn links(&self, slice: &Slice, signer: &CursorSigner) -> String {
        let limit = self.limit;
        let mut links = format!("</users?limit={limit}>; rel=\"first\"");
        let mut link = |direction, id, relation| {
            let cursor = signer.encode(direction, id);
            // Writing into a String does not fail.
            let _ = write!(links, ", </users?limit={limit}&cursor={cursor}>; rel=\"{relation}\"");
        };
        // A page that turned out empty lies where its cursor says.
        let edge = match self.position {
            Position::First => None,
            Position::After(id) | Position::Before(id) => Some(id),
        };
        if let (true, Some(id)) = (slice.has_previous, slice.users.first().map(|user| user.id).or(edge)) {
            link(Direction::Before, id, "prev");
        }
        if let (true, Some(id)) = (slice.has_next, slice.users.last().map(|user| user.id).or(edge)) {
            link(Direction::After, id, "next");
        }
        links
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cursors_come_back_as_they_went() {
        let signer = CursorSigner::new("");
        let id = UserId::generate();
        assert_eq!(signer.decode(&signer.encode(Direction::After, id)), Some(Position::After(id)));
        assert_eq!(signer.decode(&signer.encode(Direction::Before, id)), Some(Position::Before(id)));
    }

    #[test]
    fn another_key_makes_another_cursor() {
        let cursor = CursorSigner::new("one").encode(Direction::After, UserId::generate());
        assert_eq!(CursorSigner::new("two").decode(&cursor), None);
    }

    proptest! {
        #[test]
        fn a_changed_cursor_is_refused(place in 0usize..44, letter in "[A-Za-z0-9_-]") {
            let signer = CursorSigner::new("");
            let cursor = signer.encode(Direction::After, UserId::generate());
            let mut forged = cursor.clone();
            forged.replace_range(place..=place, &letter);
            prop_assert_eq!(signer.decode(&forged).is_some(), forged == cursor);
        }

        #[test]
        fn a_made_up_cursor_is_refused(text in any::<String>()) {
            prop_assert_eq!(CursorSigner::new("").decode(&text), None);
        }

        #[test]
        fn no_query_panics(query in any::<String>()) {
            let _ = ListQuery::parse(&query, &CursorSigner::new(""));
        }
    }
}
