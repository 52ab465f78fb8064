//! Visibility of characters, by their Unicode properties.

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{BidiClass, DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup},
};

const VISIBLE: GeneralCategoryGroup = GeneralCategoryGroup::Letter
    .union(GeneralCategoryGroup::Number)
    .union(GeneralCategoryGroup::Punctuation)
    .union(GeneralCategoryGroup::Symbol);

/// Letters and symbols with a blank glyph, for which Unicode has no property: the blank Braille pattern, the null
/// notehead, and the full and half blanks of hieroglyphs.
const BLANK: [char; 4] = ['\u{2800}', '\u{1d159}', '\u{13441}', '\u{13442}'];

/// Returns whether the character is visible alone: it is a letter, a number, punctuation or a symbol, and not blank. A
/// combining mark needs a base character; private-use and unassigned characters have no common appearance.
pub(super) fn is_visible(c: char) -> bool {
    c.is_ascii_graphic() || !c.is_ascii() && VISIBLE.contains(category(c)) && is_displayed(c)
}

/// Returns whether the character is visible within a text: alone, or as a mark on its base character.
pub(super) fn is_visible_in_text(c: char) -> bool {
    is_visible(c) || GeneralCategoryGroup::Mark.contains(category(c)) && is_displayed(c)
}

/// Returns whether the character embeds, overrides or isolates text of one direction (UAX #9, "explicit directional
/// formatting characters"). The marks U+200E, U+200F and U+061C do not: they have a direction and embed nothing.
pub(super) fn is_bidi_formatting(c: char) -> bool {
    const CLASSES: [BidiClass; 9] = [
        BidiClass::LeftToRightEmbedding,
        BidiClass::RightToLeftEmbedding,
        BidiClass::LeftToRightOverride,
        BidiClass::RightToLeftOverride,
        BidiClass::PopDirectionalFormat,
        BidiClass::LeftToRightIsolate,
        BidiClass::RightToLeftIsolate,
        BidiClass::FirstStrongIsolate,
        BidiClass::PopDirectionalIsolate,
    ];
    !c.is_ascii() && CLASSES.contains(&CodePointMapData::<BidiClass>::new().get(c))
}

/// Returns whether the character is a control character, or a line or paragraph separator.
pub(super) fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

fn category(c: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(c)
}

fn is_displayed(c: char) -> bool {
    !CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c) && !BLANK.contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_characters_are_not_visible() {
        for c in ['a', 'é', '世', 'ع', '7', '½', '.', '—', '€', '👩', '\u{fffd}'] {
            assert!(is_visible(c) && is_visible_in_text(c), "{c:?}");
        }
        for c in ['\u{301}', '\u{93e}', '\u{20dd}'] {
            assert!(!is_visible(c) && is_visible_in_text(c), "{c:?}");
        }
        let invisible = [
            ' ',
            '\t',
            '\u{7f}',
            '\u{a0}',
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{1160}',
            '\u{1680}',
            '\u{17b4}',
            '\u{180e}',
            '\u{2000}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{2028}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2800}',
            '\u{3000}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{e000}',
            '\u{ffff}',
            '\u{13441}',
            '\u{1d159}',
            '\u{1d173}',
            '\u{e0041}',
            '\u{e0100}',
            '\u{10fffd}',
        ];
        for c in invisible {
            assert!(!is_visible(c) && !is_visible_in_text(c), "{c:?}");
        }
    }

    #[test]
    fn directional_formatting_characters_are_recognized() {
        let all: String = (char::MIN..=char::MAX).filter(|c| is_bidi_formatting(*c)).collect();
        assert_eq!(all, "\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}");
    }
}
