//! Names, and the keys by which they are found and sorted.

use unicode_normalization::UnicodeNormalization;

use super::{
    ValidationError, fold,
    visibility::{is_bidi_formatting, is_control, is_visible},
};

/// A person's name: NFC, 1 to 200 characters without the white space around them, at least one of them visible; no control
/// characters, and none that format directions.
///
/// Embeddings, overrides and isolates of directions are refused anywhere in a name: they reorder the text around it on
/// any page that shows it, and make one name look like another (Unicode Technical Report #36, "Bidirectional Text
/// Spoofing"). Scripts that are written from right to left need none of them: their letters have a direction, and a page
/// isolates a name by its own markup. Other invisible characters may stand between visible ones: joiners are part of the
/// spelling of Persian and Indic names and of emoji, and names are not unique, so there is no one to take the place of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// Longest name, in characters (Unicode scalar values), after trimming and NFC.
    pub const MAX: usize = 200;

    /// Reads a name.
    ///
    /// # Errors
    ///
    /// A [`ValidationError`] with code `control-character`, `bidi-control`, `empty`, `invisible` or `too-long`.
    pub fn parse(text: &str) -> Result<Self, ValidationError> {
        let name = Self::normalized(text)?;
        if name.contains(is_bidi_formatting) {
            let message = "a name has no characters that embed, override or isolate a direction of writing";
            return Err(ValidationError::new("bidi-control", message));
        }
        if !name.contains(is_visible) {
            return Err(ValidationError::new("invisible", "a name has at least 1 visible character"));
        }
        Ok(Self(name))
    }

    /// The text as names are written, whether or not it can be seen: users may have such names from earlier versions of
    /// this service.
    pub(super) fn normalized(text: &str) -> Result<String, ValidationError> {
        // Line ends and tabs around a name are control characters like any other: whoever sends them should know.
        if text.contains(is_control) {
            return Err(ValidationError::new("control-character", "a name has no control characters"));
        }
        // What is too long need not be normalised to its end.
        let name: String = text.trim().nfc().take(Self::MAX + 1).collect();
        match name.chars().count() {
            0 => Err(ValidationError::new("empty", "a name has at least 1 character that is no white space")),
            1..=Self::MAX => Ok(name),
            _ => Err(ValidationError::new("too-long", format!("a name has at most {} characters", Self::MAX))),
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
    fn invisible_characters_may_join_visible_ones() {
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
        fn what_is_taken_keeps_the_rules(text in any::<String>()) {
            if let Ok(name) = Name::parse(&text) {
                let name = name.as_str();
                prop_assert!(is_nfc(name));
                prop_assert_eq!(name.trim(), name);
                prop_assert!((1..=Name::MAX).contains(&name.chars().count()));
                prop_assert!(!name.contains(is_control) && !name.contains(is_bidi_formatting));
                prop_assert!(name.contains(is_visible));
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
