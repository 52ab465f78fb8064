//! Emails, and the key by which they are unique.

use email_address::{EmailAddress, Options};
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use unicode_normalization::UnicodeNormalization;

use super::{ValidationError, fold, visibility::is_visible_in_text};

/// An email address: as it was typed, and the key by which it is unique.
///
/// The key is NFC, lower case, with the domain in its ASCII (IDNA) form. Dots and `+tags` stay: whether they mean
/// something is for the mail server to say. All of its characters are visible: an address is a person's identity, and two of
/// them must not look the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    typed: String,
    key: String,
}

impl Email {
    /// Longest address, in octets of UTF-8 (RFC 5321 §4.5.3.1.3, less the angle brackets).
    pub const MAX: usize = 254;

    /// Reads an address such as `ann@example.com`: with a dotted domain name, without a display name.
    ///
    /// # Errors
    ///
    /// A [`ValidationError`] with code `empty`, `too-long`, `malformed` or `invisible`.
    pub fn parse(text: &str) -> Result<Self, ValidationError> {
        if text.is_empty() {
            return Err(ValidationError::new("empty", "an email address is needed"));
        }
        if text.len() > Self::MAX {
            return Err(ValidationError::new("too-long", format!("an email address has at most {} octets", Self::MAX)));
        }
        let malformed = || ValidationError::new("malformed", "an email address looks like ann@example.com");
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(malformed());
        }
        if !text.chars().all(is_visible_in_text) {
            return Err(ValidationError::new("invisible", "an email address has no invisible characters"));
        }
        let options = Options::default().with_required_tld().without_display_text().without_domain_literal();
        let composed: String = text.nfc().collect();
        let address = EmailAddress::parse_with_options(&composed, options).map_err(|_| malformed())?;
        let domain = Uts46::new()
            .to_ascii(address.domain().as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
            .map_err(|_| malformed())?;
        let local = fold(address.local_part());
        Ok(Self { typed: text.to_owned(), key: format!("{local}@{domain}") })
    }

    /// The address as it was typed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.typed
    }

    /// The form by which addresses are the same or not.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The address as typed and its key, taken out.
    #[must_use]
    pub fn into_parts(self) -> (String, String) {
        (self.typed, self.key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> String {
        Email::parse(text).unwrap().key().to_owned()
    }

    #[test]
    fn keeps_what_was_typed() {
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
    fn tells_what_is_wrong() {
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
            assert_eq!(Email::parse(text).map(|_| "taken").map_err(|fault| fault.code), Err(code), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_taken_fits(text in any::<String>()) {
            if let Ok(email) = Email::parse(&text) {
                prop_assert_eq!(email.as_str(), &text);
                prop_assert!(text.chars().all(is_visible_in_text));
                prop_assert!(email.key().chars().count() <= 512);
            }
        }

        #[test]
        fn ordinary_addresses_are_taken_in_any_case(text in "[a-z][a-z0-9._+]{0,20}[a-z0-9]@[a-z]([a-z0-9-]{0,10}[a-z0-9])?\\.[a-z]{2,6}") {
            prop_assume!(!text.contains(".."));
            // Labels such as `ab--c` are reserved.
            prop_assume!(!text.contains("--"));
            let email = Email::parse(&text).unwrap();
            prop_assert_eq!(email.key(), &text);
            prop_assert_eq!(key(&text.to_uppercase()), text);
        }

        #[test]
        fn the_key_of_a_key_is_itself(local in "[a-zA-ZÀ-ÿĀ-ž0-9]{1,12}", domain in "[a-zA-Zß-ÿ]{1,12}") {
            // Some keys are no addresses: the lower case of `İ` ends in a lone dot above.
            if let Ok(email) = Email::parse(&format!("{local}@{domain}.example"))
                && let Ok(again) = Email::parse(email.key())
            {
                prop_assert_eq!(again.key(), email.key());
            }
        }
    }
}
