//! Email addresses and their unique keys.

use std::borrow::Cow;

use email_address::{EmailAddress, Options};
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use unicode_normalization::UnicodeNormalization;

use super::{ValidationError, fold_case, visibility::is_visible_in_text};

/// An email address as entered.
///
/// Its [`key`](Self::key) decides whether two addresses are the same: NFC, lower case, with the domain in its ASCII (IDNA)
/// form. Dots and `+tags` stay, because only the mail server knows whether they matter. All characters are visible: an address
/// identifies a person, and two of them must not look the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    /// Maximum length in bytes of UTF-8 (RFC 5321 §4.5.3.1.3, without the angle brackets).
    pub const MAX: usize = 254;

    /// Parses an address such as `ann@example.com`: with a dotted domain name, without a display name.
    ///
    /// # Errors
    ///
    /// A [`ValidationError`] with code `empty`, `too-long`, `malformed` or `invisible`.
    pub fn parse(text: &str) -> Result<Self, ValidationError> {
        if text.is_empty() {
            return Err(ValidationError::new("empty", "must not be empty"));
        }
        if text.len() > Self::MAX {
            return Err(ValidationError::new("too-long", format!("must be at most {} bytes", Self::MAX)));
        }
        let malformed = || ValidationError::new("malformed", "must be an email address such as ann@example.com");
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(malformed());
        }
        if !text.chars().all(is_visible_in_text) {
            return Err(ValidationError::new("invisible", "must not contain invisible characters"));
        }
        let options = Options::default().with_required_tld().without_display_text().without_domain_literal();
        let composed: String = text.nfc().collect();
        let address = EmailAddress::parse_with_options(&composed, options).map_err(|_| malformed())?;
        ascii_domain(address.domain()).map_err(|_| malformed())?;
        Ok(Self(text.to_owned()))
    }

    /// Takes an address from the database, where addresses were validated when they were written.
    pub(crate) fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// Returns the address as entered.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the key: two addresses are the same if their keys are equal.
    #[must_use]
    pub fn key(&self) -> String {
        if self.0.is_ascii() {
            // The ASCII form of a valid ASCII domain is its lower case.
            return self.0.to_ascii_lowercase();
        }
        let composed: String = self.0.nfc().collect();
        let (local, domain) = composed.rsplit_once('@').unwrap_or((&composed, ""));
        let domain = ascii_domain(domain).unwrap_or_else(|_| fold_case(domain).into());
        format!("{}@{domain}", fold_case(local))
    }

    /// Returns the address as entered.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

fn ascii_domain(domain: &str) -> Result<Cow<'_, str>, idna::Errors> {
    Uts46::new().to_ascii(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> String {
        Email::parse(text).unwrap().key()
    }

    #[test]
    fn the_address_is_kept_as_entered() {
        let email = Email::parse("Ann.O'Hara+News@Example.COM").unwrap();
        assert_eq!(email.as_str(), "Ann.O'Hara+News@Example.COM");
        assert_eq!(email.key(), "ann.o'hara+news@example.com");
    }

    #[test]
    fn one_mailbox_has_one_key() {
        assert_eq!(key("ANN@example.com"), key("ann@EXAMPLE.com"));
        assert_eq!(key("ann@bücher.example"), key("ann@XN--BCHER-KVA.example"));
        assert_eq!(key("ΑΣ@example.com"), key("ασ@example.com"));
        assert_eq!(key("ας@example.com"), key("ΑΣ@example.com"));
        assert_eq!(key("ame\u{301}lie@example.com"), key("AMÉLIE@example.com"));
        assert_ne!(key("a.nn@example.com"), key("ann@example.com"));
        assert_ne!(key("ann+x@example.com"), key("ann@example.com"));
        assert_ne!(key("é@example.com"), key("e@example.com"));
    }

    #[test]
    fn invalid_addresses_are_rejected() {
        let long = format!("{}@{}.example", "a".repeat(64), vec!["b".repeat(60); 4].join("."));
        for (text, code) in [
            ("", "empty"),
            (long.as_str(), "too-long"),
            ("ann", "malformed"),
            ("@example.com", "malformed"),
            ("ann@", "malformed"),
            ("ann@@example.com", "malformed"),
            ("ann@localhost", "malformed"),
            ("ann@[127.0.0.1]", "malformed"),
            ("Ann <ann@example.com>", "malformed"),
            (" ann@example.com", "malformed"),
            ("ann@example.com\0", "malformed"),
            ("ann@exa mple.com", "malformed"),
            ("ann@-example.com", "malformed"),
            ("ann@exam_ple.com", "malformed"),
            ("ann\u{200b}@example.com", "invisible"),
            ("a\u{3164}nn@example.com", "invisible"),
            ("a\u{115f}nn@example.com", "invisible"),
            ("a\u{ffa0}nn@example.com", "invisible"),
            ("a\u{13441}nn@example.com", "invisible"),
            ("\"a\u{2800}\"@example.com", "invisible"),
            ("\u{202a}ann@example.com\u{202c}", "invisible"),
            ("\u{feff}ann@example.com", "invisible"),
            ("ann@exam\u{ad}ple.com", "invisible"),
            ("ann@exam\u{3164}ple.com", "invisible"),
            ("ann@exam\u{200c}ple.com", "invisible"),
        ] {
            assert_eq!(Email::parse(text).map(|_| "accepted").map_err(|error| error.code), Err(code), "{text:?}");
        }
    }

    /// Returns the key that [`Email::key`] computes for an address that is not ASCII.
    fn full_key(email: &Email) -> String {
        let (local, domain) = email.as_str().rsplit_once('@').unwrap();
        format!("{}@{}", fold_case(local), ascii_domain(domain).unwrap())
    }

    proptest! {
        #[test]
        fn the_key_of_an_ascii_address_is_its_lower_case(
            text in "[a-zA-Z0-9\"]{1,6}@([a-zA-Z0-9-]{1,8}\\.|[xX][nN]--[a-z]{2,6}-[a-z]{3}\\.){1,2}[a-zA-Z]{2,4}"
        ) {
            if let Ok(email) = Email::parse(&text) {
                prop_assert_eq!(email.key(), full_key(&email));
            }
        }

        #[test]
        fn no_input_panics_and_accepted_addresses_fit_their_column(text in any::<String>()) {
            if let Ok(email) = Email::parse(&text) {
                prop_assert_eq!(email.as_str(), &text);
                prop_assert!(text.chars().all(is_visible_in_text));
                prop_assert!(email.key().chars().count() <= 512);
            }
        }

        #[test]
        fn ordinary_addresses_are_accepted_in_any_case(text in "[a-z][a-z0-9._+]{0,20}[a-z0-9]@[a-z]([a-z0-9-]{0,10}[a-z0-9])?\\.[a-z]{2,6}") {
            prop_assume!(!text.contains(".."));
            // Labels such as `ab--c` are reserved.
            prop_assume!(!text.contains("--"));
            let email = Email::parse(&text).unwrap();
            prop_assert_eq!(&email.key(), &text);
            prop_assert_eq!(key(&text.to_uppercase()), text);
        }

        #[test]
        fn keys_are_idempotent(local in "[a-zA-ZÀ-ÿĀ-ž0-9]{1,12}", domain in "[a-zA-Zß-ÿ]{1,12}") {
            // Some keys are not addresses: `İ` in lowercase ends in a combining dot above.
            if let Ok(email) = Email::parse(&format!("{local}@{domain}.example"))
                && let Ok(again) = Email::parse(&email.key())
            {
                prop_assert_eq!(again.key(), email.key());
            }
        }
    }
}
