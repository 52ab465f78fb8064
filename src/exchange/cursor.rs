//! Cursors: signed positions in a list. A cursor is valid only for the selection that it was created for.

use std::ops::Deref;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use utoipa::openapi::{RefOr, Schema};
use uuid::Uuid;

use crate::{
    domain::{Email, ValidationError},
    exchange::{TextValue, text},
    service::{Edge, Filter, Position, Selection, Sort, SortKey},
};

const DEFAULT_KEY: &str = "users-api";
/// The length of the direction and the id. The sort key follows.
const FIXED_LENGTH: usize = 17;
const SIGNATURE_LENGTH: usize = 16;
/// The length of the shortest cursor: Base64 without padding has four characters for three bytes.
const MIN_LENGTH: usize = ((FIXED_LENGTH + SIGNATURE_LENGTH) * 4).div_ceil(3);
/// More than the cursor of the longest sort key has.
const MAX_LENGTH: usize = 2200;

/// A cursor as a client sends it. Only [`CursorSigner::decode`] can read it.
#[derive(Clone, Debug)]
pub struct Cursor(String);

impl TextValue for Cursor {
    fn parse(text: &str) -> Result<Self, ValidationError> {
        Ok(Self(text.to_owned()))
    }

    fn schema() -> RefOr<Schema> {
        let pattern = format!("^[A-Za-z0-9_-]{{{MIN_LENGTH},{MAX_LENGTH}}}$");
        text().min_length(Some(MIN_LENGTH)).max_length(Some(MAX_LENGTH)).pattern(Some(pattern)).into()
    }
}

impl Deref for Cursor {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// Signs cursors, so that forged and altered cursors, and those of other lists, are refused. The position in a cursor
/// is not secret, so cursors are signed and not encrypted.
#[derive(Clone)]
pub struct CursorSigner {
    mac: Hmac<Sha256>,
}

/// The first byte of a cursor. Clients store cursors, so the numbers must never change their meaning.
#[derive(Clone, Copy)]
enum Direction {
    After = 1,
    Before = 2,
}

impl CursorSigner {
    /// Returns a signer with this key, or with the built-in key if it is empty.
    #[must_use]
    pub fn new(key: &str) -> Self {
        let key = if key.is_empty() { DEFAULT_KEY } else { key };
        let Ok(mac) = Hmac::new_from_slice(key.as_bytes()) else { unreachable!("HMAC takes keys of any length") };
        Self { mac }
    }

    /// Returns the cursor of a position in this selection; `None` for the first page.
    #[must_use]
    pub fn cursor(&self, selection: &Selection, position: &Position) -> Option<String> {
        let (direction, edge) = match position {
            Position::First => return None,
            Position::After(edge) => (Direction::After, edge),
            Position::Before(edge) => (Direction::Before, edge),
        };
        let mut bytes = Vec::with_capacity(FIXED_LENGTH + edge.key.len() + SIGNATURE_LENGTH);
        bytes.push(direction as u8);
        bytes.extend_from_slice(edge.id.as_uuid().as_bytes());
        bytes.extend_from_slice(edge.key.as_bytes());
        let signature = self.mac(selection, &bytes).finalize().into_bytes();
        bytes.extend_from_slice(&signature[..SIGNATURE_LENGTH]);
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Returns the position of a cursor; `None` if it is not a valid cursor of this selection.
    #[must_use]
    pub fn decode(&self, selection: &Selection, text: &str) -> Option<Position> {
        // Base64 has several encodings of the last bits; the decoder accepts only the canonical one.
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (payload, signature) = bytes.split_at_checked(bytes.len().checked_sub(SIGNATURE_LENGTH)?)?;
        self.mac(selection, payload).verify_truncated_left(signature).ok()?;
        let (fixed, key) = payload.split_at_checked(FIXED_LENGTH)?;
        let id = Uuid::from_slice(&fixed[1..]).ok()?.into();
        let edge = Edge { key: String::from_utf8(key.to_vec()).ok()?, id };
        match fixed[0] {
            tag if tag == Direction::After as u8 => Some(Position::After(edge)),
            tag if tag == Direction::Before as u8 => Some(Position::Before(edge)),
            _ => None,
        }
    }

    /// Returns the signature of a payload and its selection. The selection is not part of the cursor: the client
    /// repeats it.
    fn mac(&self, selection: &Selection, payload: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        encode(selection, |bytes| {
            // With the length of each part, no two selections have the same encoding.
            mac.update(&(bytes.len() as u64).to_be_bytes());
            mac.update(bytes);
        });
        mac.chain_update(payload)
    }
}

/// Encodes a selection in parts. The default selection is a single empty part.
fn encode(selection: &Selection, mut part: impl FnMut(&[u8])) {
    if *selection == Selection::default() {
        return part(b"");
    }
    let Selection { filter, sort: Sort { key, descending } } = selection;
    let Filter { email, name, text, created_after, created_before, ids } = filter;
    let key = match key {
        SortKey::Created => "createdAt",
        SortKey::Name => "name",
        SortKey::Email => "email",
    };
    part(key.as_bytes());
    part(if *descending { b"-" } else { b"+" });
    let mut optional = |name: &str, value: Option<&[u8]>| {
        if let Some(value) = value {
            part(name.as_bytes());
            part(value);
        }
    };
    let nanoseconds = |time: &Option<chrono::DateTime<chrono::Utc>>| {
        time.map(|time| (time.timestamp(), time.timestamp_subsec_nanos())).map(|(s, n)| format!("{s}.{n}").into_bytes())
    };
    optional("email", email.as_ref().map(Email::key).as_deref().map(str::as_bytes));
    optional("name", name.as_ref().map(|name| name.as_str().as_bytes()));
    optional("q", text.as_ref().map(|text| text.as_str().as_bytes()));
    optional("createdAfter", nanoseconds(created_after).as_deref());
    optional("createdBefore", nanoseconds(created_before).as_deref());
    let ids = ids.as_ref().map(|ids| ids.iter().flat_map(|id| id.as_uuid().into_bytes()).collect::<Vec<u8>>());
    optional("ids", ids.as_deref());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Prefix, UserId};

    fn edge(key: &str) -> Edge {
        Edge { key: key.to_owned(), id: UserId::generate(chrono::DateTime::UNIX_EPOCH) }
    }

    fn selections() -> Vec<Selection> {
        let prefix = Some(Prefix::parse("ann").unwrap());
        let time = Some(chrono::DateTime::UNIX_EPOCH);
        let ids = |count| Some(vec![UserId::from(Uuid::nil()); count]);
        let filters = [
            Filter::default(),
            Filter { email: Some(Email::parse("ann@example.com").unwrap()), ..Filter::default() },
            Filter { name: prefix.clone(), ..Filter::default() },
            Filter { text: prefix, ..Filter::default() },
            Filter { created_after: time, ..Filter::default() },
            Filter { created_before: time, ..Filter::default() },
            Filter { created_after: time, created_before: time, ..Filter::default() },
            Filter { ids: ids(1), ..Filter::default() },
            Filter { ids: ids(2), ..Filter::default() },
        ];
        let sorts = [SortKey::Created, SortKey::Name, SortKey::Email]
            .into_iter()
            .flat_map(|key| [false, true].map(|descending| Sort { key, descending }));
        sorts.flat_map(|sort| filters.clone().map(|filter| Selection { filter, sort })).collect()
    }

    #[test]
    fn a_cursor_is_valid_only_for_its_own_selection() {
        let signer = CursorSigner::new("");
        for (index, selection) in selections().iter().enumerate() {
            for position in [Position::After(edge("ann é")), Position::Before(edge(""))] {
                let cursor = signer.cursor(selection, &position).unwrap();
                for (other, selection) in selections().iter().enumerate() {
                    let decoded = signer.decode(selection, &cursor);
                    assert_eq!(decoded.as_ref(), (index == other).then_some(&position), "{selection:?}");
                }
            }
        }
        assert_eq!(signer.cursor(&Selection::default(), &Position::First), None);
    }

    #[test]
    fn a_cursor_signed_with_another_key_is_refused() {
        let all = Selection::default();
        let cursor = CursorSigner::new("one").cursor(&all, &Position::After(edge(""))).unwrap();
        assert_eq!(CursorSigner::new("two").decode(&all, &cursor), None);
    }

    proptest! {
        #[test]
        fn a_changed_cursor_is_refused(position in 0usize..48, letter in "[A-Za-z0-9_-]") {
            let (signer, all) = (CursorSigner::new(""), Selection::default());
            let cursor = signer.cursor(&all, &Position::After(edge("ann"))).unwrap();
            let mut forged = cursor.clone();
            forged.replace_range(position..=position, &letter);
            prop_assert_eq!(signer.decode(&all, &forged).is_some(), forged == cursor);
        }

        #[test]
        fn a_forged_cursor_is_refused(text in any::<String>()) {
            prop_assert_eq!(CursorSigner::new("").decode(&Selection::default(), &text), None);
        }

        #[test]
        fn a_shortened_cursor_is_refused(length in 0usize..48) {
            let (signer, all) = (CursorSigner::new(""), Selection::default());
            let cursor = signer.cursor(&all, &Position::After(edge("ann"))).unwrap();
            prop_assert_eq!(signer.decode(&all, &cursor[..length]), None);
        }
    }
}
