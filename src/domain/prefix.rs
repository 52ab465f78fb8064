//! Prefix search of names and emails.

use std::ops::Bound;

use super::{Email, Name, ValidationError, fold_case};

/// A prefix of names or emails, without case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    folded: String,
    /// Present if the text is an email address whose key differs: its domain has letters that are not ASCII.
    email_key: Option<String>,
}

impl Prefix {
    /// Maximum length in characters (Unicode scalar values), after trimming and NFC: that of a name.
    pub const MAX: usize = Name::MAX;

    /// Parses a prefix: 1 to 200 characters after trimming.
    ///
    /// # Errors
    ///
    /// A [`ValidationError`] with code `control-character`, `empty` or `too-long`.
    pub fn parse(text: &str) -> Result<Self, ValidationError> {
        let name = Name::normalized(text)?;
        let folded = fold_case(&name);
        let email = Email::parse(&name).ok().map(|email| email.key());
        Ok(Self { email_key: email.filter(|key| *key != folded), folded })
    }

    /// Returns the range of all texts with this prefix, in code point order.
    #[must_use]
    pub fn range(&self) -> (&str, Bound<String>) {
        (&self.folded, successor(&self.folded).map_or(Bound::Unbounded, Bound::Excluded))
    }

    /// Returns the prefix without case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.folded
    }

    /// Returns the email key if the prefix is a complete email address and its key differs from the prefix.
    #[must_use]
    pub fn email_key(&self) -> Option<&str> {
        self.email_key.as_deref()
    }
}

/// Returns the least text that is greater than all texts with this prefix.
fn successor(text: &str) -> Option<String> {
    let mut text = text.to_owned();
    while let Some(last) = text.pop() {
        // Skips surrogates.
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn case_and_surrounding_white_space_are_ignored() {
        assert_eq!(Prefix::parse(" ADA l ").unwrap().as_str(), "ada l");
        assert_eq!(Prefix::parse("ΚΩΣ").unwrap().as_str(), "κωσ");
        assert_eq!(Prefix::parse("Ann@Bücher.example").unwrap().email_key(), Some("ann@xn--bcher-kva.example"));
        assert_eq!(Prefix::parse("ann@example.com").unwrap().email_key(), None);
        // Names from earlier versions may begin with it, and a prefix may end within an emoji.
        assert_eq!(Prefix::parse("\u{200b}").unwrap().as_str(), "\u{200b}");
        assert_eq!(Prefix::parse("  ").unwrap_err().code, "empty");
        assert_eq!(Prefix::parse("a\0").unwrap_err().code, "control-character");
        assert_eq!(Prefix::parse(&"a".repeat(201)).unwrap_err().code, "too-long");
    }

    #[test]
    fn the_last_code_point_has_no_successor() {
        assert_eq!(successor("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(successor("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(successor("\u{10ffff}\u{10ffff}"), None);
    }

    proptest! {
        #[test]
        fn the_range_contains_exactly_the_texts_with_the_prefix(prefix in "\\PC{1,5}", text in "\\PC{0,8}") {
            let within = |text: &str| {
                prefix.as_str() <= text && successor(&prefix).is_none_or(|end| text < end.as_str())
            };
            prop_assert_eq!(within(&text), text.starts_with(&prefix));
            let longer = format!("{prefix}{text}");
            prop_assert!(within(&longer));
        }
    }
}
