//! Names and their search keys.

use unicode_normalization::UnicodeNormalization;

use super::{
    ValidationError, fold_case,
    visibility::{is_bidi_formatting, is_control, is_visible},
};

/// A person's name: trimmed, in NFC, 1 to 200 characters, at least one of them visible, without control characters and
/// explicit directional formatting characters.
///
/// Directional embeddings, overrides and isolates are rejected anywhere in a name: they reorder the text around it on
/// any page that shows it, and make one name look like another (Unicode Technical Report #36, "Bidirectional Text
/// Spoofing"). Right-to-left scripts do not need them: their letters have a direction, and a page isolates a name by
/// its markup. Other invisible characters are accepted next to visible ones: Persian and Indic names and emoji are
/// spelled with joiners, and since names are not unique, a look-alike impersonates no account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// Maximum length in characters (Unicode scalar values), after trimming and NFC.
    pub const MAX: usize = 200;

    /// Parses a name.
    ///
    /// # Errors
    ///
    /// A [`ValidationError`] with code `control-character`, `bidi-control`, `empty`, `invisible` or `too-long`.
    pub fn parse(text: &str) -> Result<Self, ValidationError> {
        let name = Self::normalized(text)?;
        if name.contains(is_bidi_formatting) {
            let message = "must not contain directional formatting characters (U+202A to U+202E, U+2066 to U+2069)";
            return Err(ValidationError::new("bidi-control", message));
        }
        if !name.contains(is_visible) {
            return Err(ValidationError::new("invisible", "must contain at least one visible character"));
        }
        Ok(Self(name))
    }

    /// Takes a name from the database, where names were validated when they were written.
    pub(crate) fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// Trims and composes a name. Does not require visible characters: users may have names without any from earlier
    /// versions of this service.
    pub(super) fn normalized(text: &str) -> Result<String, ValidationError> {
        // Before trimming, so that line ends and tabs around a name are reported too.
        if text.contains(is_control) {
            return Err(ValidationError::new("control-character", "must not contain control characters"));
        }
        // One character too many is enough: the rest of a long text need not be normalized.
        let name: String = text.trim().nfc().take(Self::MAX + 1).collect();
        match name.chars().count() {
            0 => Err(ValidationError::new("empty", "must not be blank")),
            1..=Self::MAX => Ok(name),
            _ => Err(ValidationError::new("too-long", format!("must be at most {} characters", Self::MAX))),
        }
    }

    /// Returns the two keys by which names are searched and sorted: the name without case, and the same with the last
    /// word first (`lovelace ada`).
    #[must_use]
    pub fn keys(&self) -> (String, String) {
        let key = fold_case(&self.0);
        let last_word_first = match key.rsplit_once(char::is_whitespace) {
            Some((others, last)) => format!("{last} {}", others.trim_end()),
            None => key.clone(),
        };
        (key, last_word_first)
    }

    /// Returns the name as a string slice.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name as a string.
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
    fn names_are_trimmed_and_composed() {
        assert_eq!(Name::parse("\u{3000} Ame\u{301}lie  ").unwrap().as_str(), "Amélie");
        assert_eq!(Name::parse("👩‍👩‍👧‍👦").unwrap().as_str(), "👩‍👩‍👧‍👦");
    }

    #[test]
    fn invisible_characters_are_accepted_next_to_visible_ones() {
        for name in [
            "می\u{200c}خواهم",
            "क\u{94d}\u{200d}ष",
            "❤\u{fe0f}",
            "עברית\u{200f}!",
            "🏴\u{e0067}\u{e007f}",
            "An\u{ad}na",
            ".",
        ] {
            assert_eq!(Name::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn keys_ignore_case() {
        let name = Name::parse("Ada  LOVELACE").unwrap();
        assert_eq!(name.keys(), ("ada  lovelace".to_owned(), "lovelace ada".to_owned()));
        assert_eq!(Name::parse("İnce").unwrap().keys().1, "i\u{307}nce");
    }

    #[test]
    fn invalid_names_are_rejected() {
        for (text, code) in [
            ("", "empty"),
            (" \u{2003}\u{3000}", "empty"),
            ("a\0b", "control-character"),
            ("a\nb", "control-character"),
            ("Ann\n", "control-character"),
            ("a\u{85}b", "control-character"),
            ("a\u{2028}b", "control-character"),
            ("a\u{2029}", "control-character"),
            ("\u{200b}", "invisible"),
            ("\u{200d}\u{feff}\u{e0041}", "invisible"),
            ("\u{ad} \u{2060}", "invisible"),
            ("\u{115f}\u{1160}", "invisible"),
            ("\u{3164}", "invisible"),
            ("\u{2800} \u{2800}", "invisible"),
            ("\u{301}\u{fe0f}", "invisible"),
            ("\u{e000}", "invisible"),
            ("\u{200f}", "invisible"),
            ("Ann \u{202e}nnA", "bidi-control"),
            ("\u{2067}علي\u{2069}", "bidi-control"),
        ] {
            assert_eq!(Name::parse(text).unwrap_err().code, code, "{text:?}");
        }
        assert!(Name::parse(&"é".repeat(200)).is_ok());
        assert!(Name::parse(&"e\u{301}".repeat(200)).is_ok());
        assert_eq!(Name::parse(&"é".repeat(201)).unwrap_err().code, "too-long");
    }

    proptest! {
        #[test]
        fn accepted_names_keep_the_rules(text in any::<String>()) {
            if let Ok(name) = Name::parse(&text) {
                let name = name.as_str();
                prop_assert!(is_nfc(name));
                prop_assert_eq!(name.trim(), name);
                prop_assert!((1..=Name::MAX).contains(&name.chars().count()));
                prop_assert!(!name.contains(is_control) && !name.contains(is_bidi_formatting));
                prop_assert!(name.contains(is_visible));
                // The sizes of the columns.
                let (key, last_word_key) = Name::parse(name).unwrap().keys();
                prop_assert!(key.chars().count() <= 2 * Name::MAX);
                prop_assert!(last_word_key.chars().count() <= key.chars().count());
            }
        }

        #[test]
        fn parsing_is_idempotent(text in "\\PC{0,220}") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(Name::parse(name.as_str()), Ok(name.clone()));
            }
        }

        #[test]
        fn ordinary_names_are_accepted_unchanged(name in "[A-Za-zÀ-ÖØ-öø-ÿ][A-Za-zÀ-ÖØ-öø-ÿ' -]{0,50}[A-Za-z]") {
            let parsed = Name::parse(&name).unwrap();
            prop_assert_eq!(parsed.as_str(), name);
        }
    }
}
