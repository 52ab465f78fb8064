use std::{fmt, str::FromStr};

use uuid::Uuid;

use super::Fault;

/// A user's id: a UUID, version 7 when made here, so that ids sort by time of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Uuid);

impl UserId {
    /// A new id, greater than every id this process made before.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place where ids are made")]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The UUID itself.
    #[must_use]
    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for UserId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl FromStr for UserId {
    type Err = Fault;

    /// Takes the hyphenated form of 36 characters in either case: one user has one address.
    fn from_str(text: &str) -> Result<Self, Fault> {
        let malformed = || Fault::new("malformed", "a user id is a UUID such as 0197b5f0-3c4a-7def-8123-456789abcdef");
        if text.len() != 36 {
            return Err(malformed());
        }
        Uuid::try_parse(text).map(Self).map_err(|_| malformed())
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow() {
        let ids: Vec<UserId> = (0..10_000).map(|_| UserId::generate()).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn takes_one_form_only() {
        let id = UserId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        for other in
            [id.0.simple().to_string(), format!("{{{id}}}"), format!("urn:uuid:{id}"), "1".to_owned(), String::new()]
        {
            assert_eq!(other.parse::<UserId>().unwrap_err().code, "malformed", "{other}");
        }
    }
}
