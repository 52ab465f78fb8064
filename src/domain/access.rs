//! Callers and their scopes.

use std::{fmt, str::FromStr, sync::Arc};

use super::ValidationError;

/// A permission. A caller has a set of them ([`Scopes`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Read users: lists, single users, exports.
    UsersRead,
    /// Create and change users.
    UsersWrite,
    /// Delete users.
    UsersDelete,
    /// Import users in bulk.
    UsersBulk,
    /// Read and change the user whose id is the subject of the access token.
    UsersSelf,
    /// Read the feed of changes.
    FeedRead,
    /// Send messages to users.
    MessagesSend,
    /// Read the state of the pool, the metrics, and the histories of users.
    OpsRead,
    /// Create, list, rotate and revoke API keys.
    KeysAdmin,
}

impl Scope {
    /// All scopes, in the order in which they are listed.
    pub const ALL: [Self; 9] = [
        Self::UsersRead,
        Self::UsersWrite,
        Self::UsersDelete,
        Self::UsersBulk,
        Self::UsersSelf,
        Self::FeedRead,
        Self::MessagesSend,
        Self::OpsRead,
        Self::KeysAdmin,
    ];

    /// Returns the name, such as `users:read`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UsersRead => "users:read",
            Self::UsersWrite => "users:write",
            Self::UsersDelete => "users:delete",
            Self::UsersBulk => "users:bulk",
            Self::UsersSelf => "users:self",
            Self::FeedRead => "feed:read",
            Self::MessagesSend => "messages:send",
            Self::OpsRead => "ops:read",
            Self::KeysAdmin => "keys:admin",
        }
    }

    /// Returns what the scope permits.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::UsersRead => "read users: lists, single users, exports",
            Self::UsersWrite => "create and change users",
            Self::UsersDelete => "delete users",
            Self::UsersBulk => "import users in bulk",
            Self::UsersSelf => "read and change the user whose id is the subject of the access token",
            Self::FeedRead => "read the feed of changes, with the values of users",
            Self::MessagesSend => "send messages to users",
            Self::OpsRead => "read the state of the pool, the metrics, and the histories of users",
            Self::KeysAdmin => "create, list, rotate and revoke API keys",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|scope| scope.name()).collect();
            ValidationError::new("unknown-scope", format!("must be a scope: {}", names.join(", ")))
        })
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u16);

impl Scopes {
    /// All scopes.
    pub const ALL: Self = {
        let mut all = 0;
        let mut index = 0;
        while index < Scope::ALL.len() {
            all |= 1 << Scope::ALL[index] as u16;
            index += 1;
        }
        Self(all)
    };

    /// The scopes of a caller who did not authenticate: all but `keys:admin`, because a key outlives the time in which
    /// everyone may use the service.
    pub const ALL_OF_ANYONE: Self = Self(Self::ALL.0 & !(1 << Scope::KeysAdmin as u16));
    /// All scopes that an API key can have: it has no subject.
    pub const ALL_OF_KEYS: Self = Self(Self::ALL.0 & !(1 << Scope::UsersSelf as u16));

    /// Parses the scopes of an API key: at least one, and only those that a key can have.
    ///
    /// # Errors
    ///
    /// `unknown-scope` or `empty`.
    pub fn parse_for_key(text: &str) -> Result<Self, ValidationError> {
        let scopes: Self = text.parse()?;
        if let Some(scope) = scopes.iter().find(|scope| !Self::ALL_OF_KEYS.contain(*scope)) {
            let message = format!("{scope} is for access tokens, which have a subject");
            return Err(ValidationError::new("unknown-scope", message));
        }
        if scopes.is_empty() { Err(ValidationError::new("empty", "must name a scope")) } else { Ok(scopes) }
    }

    /// Returns whether the set contains a scope.
    #[must_use]
    pub const fn contain(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u16) != 0
    }

    /// Returns whether the set contains every scope of another one.
    #[must_use]
    pub const fn contain_all(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the scopes in their order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.contain(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | 1 << scope as u16))
    }
}

/// The names, separated by spaces, as in OAuth 2.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            write!(f, "{}{scope}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl FromStr for Scopes {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        text.split(' ').filter(|name| !name.is_empty()).map(Scope::from_str).collect()
    }
}

/// The id of an API key: a part of the key that is not secret, by which it is found, listed and revoked.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; Self::LENGTH]);

impl KeyId {
    /// The number of letters and digits.
    pub const LENGTH: usize = 12;

    /// Returns the id with these letters and digits.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LENGTH]) -> Option<Self> {
        bytes.iter().all(u8::is_ascii_alphanumeric).then_some(Self(bytes))
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Letters and digits are always UTF-8.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyId {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let id = text.as_bytes().try_into().ok().and_then(Self::from_bytes);
        id.ok_or_else(|| {
            let length = Self::LENGTH;
            ValidationError::new(
                "malformed",
                format!("must be the {length} letters and digits between `uak_` and the next `_` of a key"),
            )
        })
    }
}

/// The name of an API key, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyName(Arc<str>);

impl KeyName {
    /// The maximum number of characters.
    pub const MAX: usize = 100;

    /// Parses a name: one line that is not blank.
    ///
    /// # Errors
    ///
    /// `empty`, `too-long` or `control-character`.
    pub fn parse(text: &str) -> Result<Self, ValidationError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ValidationError::new("empty", "must not be blank"));
        }
        if text.chars().count() > Self::MAX {
            return Err(ValidationError::new("too-long", format!("must be at most {} characters", Self::MAX)));
        }
        if text.chars().any(char::is_control) {
            return Err(ValidationError::new("control-character", "must not contain control characters"));
        }
        Ok(Self(text.into()))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The subject of an access token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The identity provider (`iss`).
    pub issuer: Arc<str>,
    /// Its name for the subject (`sub`).
    pub id: Arc<str>,
}

/// The caller that makes a request or a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// Anyone: callers are not authenticated (`auth.mode` is `off` or `gateway`).
    Anyone,
    /// The holder of an API key.
    Key(KeyId),
    /// The subject of an access token.
    Subject(Subject),
    /// A user of the operating system, on the command line.
    CommandLine(Arc<str>),
}

/// As it is logged and recorded: `anyone`, `key:<id>`, `<subject>@<issuer>` or `cli:<user>`.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Key(id) => write!(f, "key:{id}"),
            Self::Subject(Subject { issuer, id }) => write!(f, "{id}@{issuer}"),
            Self::CommandLine(user) => write!(f, "cli:{user}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_parsed_and_printed_in_their_order() {
        let scopes: Scopes = "users:write  users:read".parse().unwrap();
        assert_eq!(scopes.to_string(), "users:read users:write");
        assert!(scopes.contain(Scope::UsersRead) && !scopes.contain(Scope::UsersDelete));
        assert!(Scopes::ALL.contain_all(scopes) && !scopes.contain_all(Scopes::ALL));
        assert_eq!(Scopes::ALL.to_string().parse(), Ok(Scopes::ALL));
        assert_eq!(Scope::ALL.into_iter().collect::<Scopes>(), Scopes::ALL);
        assert_eq!("".parse(), Ok(Scopes::default()));
        for unknown in ["users:Read", "users", "users:read,users:write", "*"] {
            assert_eq!(unknown.parse::<Scopes>().unwrap_err().code, "unknown-scope", "{unknown}");
        }
    }

    #[test]
    fn keys_have_scopes_without_a_subject() {
        assert_eq!(Scopes::parse_for_key(&Scopes::ALL_OF_KEYS.to_string()), Ok(Scopes::ALL_OF_KEYS));
        for (text, code, message) in [
            ("users:read users:self", "unknown-scope", "users:self is for access tokens, which have a subject"),
            (" ", "empty", "must name a scope"),
        ] {
            let error = Scopes::parse_for_key(text).unwrap_err();
            assert_eq!((error.code, &*error.message), (code, message), "{text}");
        }
        assert_eq!(Scopes::parse_for_key("users").unwrap_err().code, "unknown-scope");
    }

    #[test]
    fn key_ids_are_letters_and_digits() {
        assert_eq!("0aZ3456789bc".parse::<KeyId>().unwrap().to_string(), "0aZ3456789bc");
        for malformed in ["", "0aZ3456789b", "0aZ3456789bcd", "0aZ3456789b-", "0aZ3456789ä"] {
            assert!(malformed.parse::<KeyId>().is_err(), "{malformed}");
        }
    }

    #[test]
    fn key_names_are_one_line() {
        assert_eq!(KeyName::parse(" CI ").unwrap().as_str(), "CI");
        for (text, code) in [(" ", "empty"), (&"n".repeat(101), "too-long"), ("a\nb", "control-character")] {
            assert_eq!(KeyName::parse(text).unwrap_err().code, code, "{text}");
        }
    }
}
