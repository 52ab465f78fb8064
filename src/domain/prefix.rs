//! Beginnings of names and emails, as ranges of keys.

use std::ops::Bound;

use super::{Email, Name, ValidationError, fold};

/// The beginning of a name or an email, without regard to case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    folded: String,
    /// By which an email is known that is written otherwise: with a domain in letters that are not ASCII.
    email_key: Option<String>,
}

impl Prefix {
    /// Reads a beginning: 1 to 200 characters without the white space around them.
    ///
    /// # Errors
    ///
    /// A [`ValidationError`] with code `control-character`, `empty` or `too-long`.
    pub fn parse(text: &str) -> Result<Self, ValidationError> {
        let name = Name::normalized(text).map_err(|fault| match fault.code {
            "empty" => ValidationError::new("empty", "at least 1 character that is no white space is needed"),
            "too-long" => ValidationError::new("too-long", format!("at most {} characters are taken", Name::MAX)),
            _ => ValidationError::new(fault.code, "control characters are not taken"),
        })?;
        let folded = fold(&name);
        let email = Email::parse(&name).ok().map(|email| email.into_parts().1);
        Ok(Self { email_key: email.filter(|key| *key != folded), folded })
    }

    /// The range of all texts that begin so, in the order of their code points.
    #[must_use]
    pub fn range(&self) -> (&str, Bound<String>) {
        (&self.folded, successor(&self.folded).map_or(Bound::Unbounded, Bound::Excluded))
    }

    /// The beginning as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.folded
    }

    /// The key of the email that this is, if it does not begin so.
    #[must_use]
    pub fn email_key(&self) -> Option<&str> {
        self.email_key.as_deref()
    }
}

/// The least text that is greater than all that begin with this one.
fn successor(text: &str) -> Option<String> {
    let mut text = text.to_owned();
    while let Some(last) = text.pop() {
        // Surrogates are passed over.
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
    fn has_no_case_and_no_space_around() {
        assert_eq!(Prefix::parse(" ADA l ").unwrap().as_str(), "ada l");
        assert_eq!(Prefix::parse("ΚΩΣ").unwrap().as_str(), "κωσ");
        assert_eq!(Prefix::parse("Ann@Bücher.example").unwrap().email_key(), Some("ann@xn--bcher-kva.example"));
        assert_eq!(Prefix::parse("ann@example.com").unwrap().email_key(), None);
        // A name of an earlier version may begin so, and an emoji may end so.
        assert_eq!(Prefix::parse("\u{200b}").unwrap().as_str(), "\u{200b}");
        assert_eq!(Prefix::parse("  ").unwrap_err().code, "empty");
        assert_eq!(Prefix::parse("a\0").unwrap_err().code, "control-character");
        assert_eq!(Prefix::parse(&"a".repeat(201)).unwrap_err().code, "too-long");
    }

    #[test]
    fn the_last_texts_of_all_have_no_end() {
        assert_eq!(successor("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(successor("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(successor("\u{10ffff}\u{10ffff}"), None);
    }

    proptest! {
        #[test]
        fn the_range_holds_what_begins_so_and_nothing_else(prefix in "\\PC{1,5}", text in "\\PC{0,8}") {
            let within = |text: &str| {
                prefix.as_str() <= text && successor(&prefix).is_none_or(|end| text < end.as_str())
            };
            prop_assert_eq!(within(&text), text.starts_with(&prefix));
            let longer = format!("{prefix}{text}");
            prop_assert!(within(&longer));
        }
    }
}
