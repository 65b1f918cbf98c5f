//! Texts that people write: names, reasons, references, lines of an address.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, RefOr,
        schema::{Schema, SchemaType, Type},
    },
};

/// The longest text, in characters.
pub const TEXT_LONGEST: usize = 200;

/// Characters that no text contains: control characters, and those that make a text look different from what it is, as
/// ranges of a regular expression.
const NEVER: &str = "\\u0000-\\u001F\\u007F-\\u009F\\u061C\\u180E\\u200B\\u200E\\u200F\\u2028-\\u202E\\u2060\\u2066-\\u2069\\uFEFF";
/// Characters that show nothing.
const INVISIBLE: &str = "\\u0020\\u00A0\\u00AD\\u034F\\u115F\\u1160\\u1680\\u17B4\\u17B5\\u180B-\\u180F\\u2000-\\u200F\\u202F\\u205F-\\u206F\\u2800\\u3000\\u3164\\uFE00-\\uFE0F\\uFFA0\\uFFF0-\\uFFFB\u{1BCA0}-\u{1BCA3}\u{1D173}-\u{1D17A}\u{E0000}-\u{E0FFF}";

/// What [`check`] accepts, as OpenAPI documents describe it.
pub struct Text;

impl PartialSchema for Text {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(SchemaType::Type(Type::String))
            .min_length(Some(1))
            .max_length(Some(TEXT_LONGEST))
            .pattern(Some(format!("^[^{NEVER}]*[^{NEVER}{INVISIBLE}][^{NEVER}]*$")))
            .description(Some(
                "Text that people write: 1-200 characters, without control characters, bidi controls and zero-width spaces, \
                 and with something visible.",
            ))
            .into()
    }
}

impl ToSchema for Text {}

/// Validates a text.
///
/// # Errors
/// What the text must be.
pub fn check(text: &str) -> Result<(), &'static str> {
    if !(1..=TEXT_LONGEST).contains(&text.chars().count()) || text.chars().any(is_control) {
        return Err("must be 1-200 characters, none of them a control character");
    }
    if text.chars().any(misleads) {
        return Err("must hold no bidi control and no zero-width space");
    }
    if !text.chars().any(is_visible) {
        return Err("must hold something visible");
    }
    Ok(())
}

/// Line and paragraph separators break lines as control characters do.
fn is_control(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

/// Returns whether a character makes a text look different from what it is: it changes the direction, or is invisible.
/// U+200C and U+200D (ZWNJ and ZWJ) are allowed: Persian, Indian languages and emoji need them.
fn misleads(character: char) -> bool {
    let is_bidi_control = matches!(character,
        '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    is_bidi_control || matches!(character, '\u{180E}' | '\u{200B}' | '\u{2060}' | '\u{FEFF}')
}

/// Returns whether the character is visible: neither white space, nor a filler, nor one of Unicode's default
/// ignorables.
fn is_visible(character: char) -> bool {
    let is_ignorable = matches!(character,
        '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}'
        | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}' | '\u{2800}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}'
        | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}' | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}'
        | '\u{E0000}'..='\u{E0FFF}');
    !character.is_whitespace() && !is_control(character) && !is_ignorable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_shows_nothing_is_refused() {
        for text in
            ["", " ", "\u{a0}", "\u{3000}", "\u{ad}", "\u{200d}", "\u{3164}", "\u{2800}", " \u{fe0f} "]
        {
            assert!(check(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_text_that_reads_as_another_is_refused() {
        for text in
            ["a\u{202e}b", "a\u{2066}b", "a\u{200b}b", "a\u{2060}b", "\u{feff}a", "a\u{200f}", "a\u{61c}"]
        {
            assert_eq!(check(text), Err("must hold no bidi control and no zero-width space"), "{text:?}");
        }
        for text in ["a\nb", "a\0", "a\u{85}", "a\u{2028}b", "\u{9b}31m"] {
            assert!(check(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_of_all_scripts_are_taken() {
        for text in [
            "Zoë",
            "山田太郎",
            "می‌خواهم",
            "क्‍ष",
            "👩‍👩‍👧",
            "O'Brien-Łukasz",
            "משה",
            "e\u{301}",
            ".",
            "n".repeat(200).as_str(),
        ] {
            assert_eq!(check(text), Ok(()), "{text:?}");
        }
        assert!(check(&"n".repeat(201)).is_err());
    }
}
