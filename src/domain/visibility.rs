//! What a reader sees of a character, by Unicode's own properties.

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{BidiClass, DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup},
};

const VISIBLE: GeneralCategoryGroup = GeneralCategoryGroup::Letter
    .union(GeneralCategoryGroup::Number)
    .union(GeneralCategoryGroup::Punctuation)
    .union(GeneralCategoryGroup::Symbol);

/// Letters and symbols whose glyph is blank, for which Unicode has no property: a Braille cell without dots, a note without
/// a head, and the blanks of hieroglyphs.
const BLANK: [char; 4] = ['\u{2800}', '\u{1d159}', '\u{13441}', '\u{13442}'];

/// Whether the character can be seen where it stands alone: it is a letter, a number, punctuation or a symbol, and it is
/// displayed. A combining mark needs a character to stand on; private and unassigned characters look like nothing that all
/// readers have in common.
pub(super) fn is_visible(c: char) -> bool {
    c.is_ascii_graphic() || !c.is_ascii() && VISIBLE.contains(category(c)) && is_displayed(c)
}

/// Whether the character can be seen within a text: it is visible, or it changes the character that it stands on.
pub(super) fn is_visible_in_text(c: char) -> bool {
    is_visible(c) || GeneralCategoryGroup::Mark.contains(category(c)) && is_displayed(c)
}

/// Whether the character embeds, overrides or isolates a direction (UAX #9, "explicit directional formatting"). The marks
/// U+200E, U+200F and U+061C are not among them: they are characters of one direction, and change no others.
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

/// Whether the character ends a line or controls a device, and is no text.
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
    fn what_is_blank_is_not_visible() {
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
    fn formatting_of_directions_is_recognised() {
        let all: String = (char::MIN..=char::MAX).filter(|c| is_bidi_formatting(*c)).collect();
        assert_eq!(all, "\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}");
    }
}
