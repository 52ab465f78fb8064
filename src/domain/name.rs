//! Names, and the keys by which they are found and sorted.

use unicode_normalization::UnicodeNormalization;

use super::{Fault, fold};

/// A person's name: NFC, 1 to 200 characters without the white space around them, no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// Longest name, in characters (Unicode scalar values), after trimming and NFC.
    pub const MAX: usize = 200;

    /// Reads a name.
    ///
    /// # Errors
    ///
    /// A [`Fault`] with code `control-character`, `empty` or `too-long`.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        // Line ends and tabs around a name are control characters like any other: whoever sends them should know.
        if text.chars().any(char::is_control) {
            return Err(Fault::new("control-character", "a name has no control characters"));
        }
        // What is too long need not be normalised to its end.
        let name: String = text.trim().nfc().take(Self::MAX + 1).collect();
        match name.chars().count() {
            0 => Err(Fault::new("empty", "a name has at least 1 character that is no white space")),
            1..=Self::MAX => Ok(Self(name)),
            _ => Err(Fault::new("too-long", format!("a name has at most {} characters", Self::MAX))),
        }
    }

    /// The form by which names are found and sorted: without regard to case; and the same with its last word first
    /// (`lovelace ada`).
    #[must_use]
    pub fn keys(&self) -> (String, String) {
        let key = fold(&self.0);
        let last_word_first = match key.rsplit_once(char::is_whitespace) {
            Some((others, last)) => format!("{last} {}", others.trim_end()),
            None => key.clone(),
        };
        (key, last_word_first)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as text, taken out.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_normalization::is_nfc;

    use super::*;

    #[test]
    fn trims_and_composes() {
        assert_eq!(Name::parse("\u{3000} Ame\u{301}lie  ").unwrap().as_str(), "Amélie");
        assert_eq!(Name::parse("👩‍👩‍👧‍👦").unwrap().as_str(), "👩‍👩‍👧‍👦");
    }

    #[test]
    fn keys_have_no_case() {
        let name = Name::parse("Ada  LOVELACE").unwrap();
        assert_eq!(name.keys(), ("ada  lovelace".to_owned(), "lovelace ada".to_owned()));
        assert_eq!(Name::parse("İnce").unwrap().keys().1, "i\u{307}nce");
    }

    #[test]
    fn tells_what_is_wrong() {
        for (text, code) in [
            ("", "empty"),
            (" \u{2003}\u{3000}", "empty"),
            ("a\0b", "control-character"),
            ("a\nb", "control-character"),
            ("Ann\n", "control-character"),
            ("a\u{85}b", "control-character"),
        ] {
            assert_eq!(Name::parse(text).unwrap_err().code, code, "{text:?}");
        }
        assert!(Name::parse(&"é".repeat(200)).is_ok());
        assert!(Name::parse(&"e\u{301}".repeat(200)).is_ok());
        assert_eq!(Name::parse(&"é".repeat(201)).unwrap_err().code, "too-long");
    }

    proptest! {
        #[test]
        fn what_is_taken_keeps_the_rules(text in any::<String>()) {
            if let Ok(name) = Name::parse(&text) {
                let name = name.as_str();
                prop_assert!(is_nfc(name));
                prop_assert_eq!(name.trim(), name);
                prop_assert!((1..=Name::MAX).contains(&name.chars().count()));
                prop_assert!(!name.chars().any(char::is_control));
                // What the columns hold.
                let (key, last_word_key) = Name::parse(name).unwrap().keys();
                prop_assert!(key.chars().count() <= 2 * Name::MAX);
                prop_assert!(last_word_key.chars().count() <= key.chars().count());
            }
        }

        #[test]
        fn reading_twice_changes_nothing(text in "\\PC{0,220}") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(Name::parse(name.as_str()), Ok(name.clone()));
            }
        }

        #[test]
        fn ordinary_names_are_taken_as_they_are(name in "[A-Za-zÀ-ÖØ-öø-ÿ][A-Za-zÀ-ÖØ-öø-ÿ' -]{0,50}[A-Za-z]") {
            let read = Name::parse(&name).unwrap();
            prop_assert_eq!(read.as_str(), name);
        }
    }
}
