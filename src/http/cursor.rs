//! Cursors: where a page lies, signed, and bound to the list that it is a page of.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

use crate::service::{Edge, Filter, Position, Selection, Sort, SortKey};

const DEFAULT_KEY: &str = "users-api";
/// The direction and the id. A key may follow.
const FIXED: usize = 17;
const SIGNATURE: usize = 16;

/// Signs cursors, so that one which was made up, mangled or taken from another list is told from one of ours. A cursor
/// says beside which user a page lies; that is no secret, hence a signature and no encryption.
#[derive(Clone)]
pub struct CursorSigner {
    mac: Hmac<Sha256>,
}

/// The first byte of a cursor. The numbers are in clients' hands; they never change their meaning.
#[derive(Clone, Copy)]
enum Direction {
    After = 1,
    Before = 2,
}

impl CursorSigner {
    /// A signer with this key; the built-in one if it is empty.
    #[must_use]
    pub fn new(key: &str) -> Self {
        let key = if key.is_empty() { DEFAULT_KEY } else { key };
        let Ok(mac) = Hmac::new_from_slice(key.as_bytes()) else { unreachable!("HMAC takes keys of any length") };
        Self { mac }
    }

    /// The cursor of a page of this selection; the first page has none.
    #[must_use]
    pub fn cursor(&self, selection: &Selection, position: &Position) -> Option<String> {
        let (direction, edge) = match position {
            Position::First => return None,
            Position::After(edge) => (Direction::After, edge),
            Position::Before(edge) => (Direction::Before, edge),
        };
        let mut bytes = Vec::with_capacity(FIXED + edge.key.len() + SIGNATURE);
        bytes.push(direction as u8);
        bytes.extend_from_slice(edge.id.as_uuid().as_bytes());
        bytes.extend_from_slice(edge.key.as_bytes());
        let signature = self.mac(selection, &bytes).finalize().into_bytes();
        bytes.extend_from_slice(&signature[..SIGNATURE]);
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Where the page lies, if this is a cursor of this selection.
    pub(super) fn decode(&self, selection: &Selection, text: &str) -> Option<Position> {
        // A base64 text has several spellings of its last bits; only ours is taken.
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (payload, signature) = bytes.split_at_checked(bytes.len().checked_sub(SIGNATURE)?)?;
        self.mac(selection, payload).verify_truncated_left(signature).ok()?;
        let (fixed, key) = payload.split_at_checked(FIXED)?;
        let id = Uuid::from_slice(&fixed[1..]).ok()?.into();
        let edge = Edge { key: String::from_utf8(key.to_vec()).ok()?, id };
        match fixed[0] {
            tag if tag == Direction::After as u8 => Some(Position::After(edge)),
            tag if tag == Direction::Before as u8 => Some(Position::Before(edge)),
            _ => None,
        }
    }

    /// The selection is signed and not told: a client has it anyway.
    fn mac(&self, selection: &Selection, payload: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        bind(selection, |bytes| {
            // No two selections make the same sequence: each part says how long it is.
            mac.update(&(bytes.len() as u64).to_be_bytes());
            mac.update(bytes);
        });
        mac.chain_update(payload)
    }
}

/// A selection as bytes, part by part. That of all users in the order of their creation has none.
fn bind(selection: &Selection, mut part: impl FnMut(&[u8])) {
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
    optional("email", email.as_ref().map(|email| email.key().as_bytes()));
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
    use crate::domain::{Email, Prefix, UserId};

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
    fn cursors_come_back_as_they_went_and_only_to_their_own_list() {
        let signer = CursorSigner::new("");
        for (place, selection) in selections().iter().enumerate() {
            for position in [Position::After(edge("ann é")), Position::Before(edge(""))] {
                let cursor = signer.cursor(selection, &position).unwrap();
                for (other, selection) in selections().iter().enumerate() {
                    let decoded = signer.decode(selection, &cursor);
                    assert_eq!(decoded.as_ref(), (place == other).then_some(&position), "{selection:?}");
                }
            }
        }
        assert_eq!(signer.cursor(&Selection::default(), &Position::First), None);
    }

    #[test]
    fn another_key_makes_another_cursor() {
        let all = Selection::default();
        let cursor = CursorSigner::new("one").cursor(&all, &Position::After(edge(""))).unwrap();
        assert_eq!(CursorSigner::new("two").decode(&all, &cursor), None);
    }

    proptest! {
        #[test]
        fn a_changed_cursor_is_refused(place in 0usize..48, letter in "[A-Za-z0-9_-]") {
            let (signer, all) = (CursorSigner::new(""), Selection::default());
            let cursor = signer.cursor(&all, &Position::After(edge("ann"))).unwrap();
            let mut forged = cursor.clone();
            forged.replace_range(place..=place, &letter);
            prop_assert_eq!(signer.decode(&all, &forged).is_some(), forged == cursor);
        }

        #[test]
        fn a_made_up_cursor_is_refused(text in any::<String>()) {
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
