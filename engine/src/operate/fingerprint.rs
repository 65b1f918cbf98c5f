//! What sagas that stand still have in common.

use crate::core::Saga;

/// The longest text of a fingerprint, in characters.
const TEXT_LONGEST: usize = 200;

/// What a saga that stands still has in common with others of its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint {
    /// Name of the workflow.
    pub workflow: String,
    /// The step.
    pub step: String,
    /// The code of its reason; `stuck` if it is not parked.
    pub reason: String,
    /// The text of its reason, without ids and numbers.
    pub text: String,
}

/// Computes the fingerprint of a saga that is parked or stuck.
pub fn fingerprint(saga: &Saga) -> Fingerprint {
    let parked = saga.parked_reason().filter(|_| saga.parked);
    Fingerprint {
        workflow: saga.workflow.clone(),
        step: saga.step.clone(),
        reason: parked.map_or_else(|| "stuck".to_owned(), |reason| reason.code.clone()),
        text: parked.map(|reason| stripped(&reason.text)).unwrap_or_default(),
    }
}

/// Replaces each word with a digit in it by `#`: ids, numbers, times and addresses differ from saga to saga.
fn stripped(text: &str) -> String {
    let is_inside = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/');
    let (mut said, mut word) = (String::new(), String::new());
    let end = |word: &mut String, said: &mut String| {
        match word.chars().any(|c| c.is_ascii_digit()) {
            // The end of a sentence is no part of a number.
            true => {
                said.push('#');
                said.extend(word.chars().rev().take_while(|c| matches!(c, '.' | ':')));
            }
            false => said.push_str(word),
        }
        word.clear();
    };
    for c in text.chars().take(TEXT_LONGEST) {
        if is_inside(c) {
            word.push(c);
        } else {
            end(&mut word, &mut said);
            said.push(c);
        }
    }
    end(&mut word, &mut said);
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_in_ids_and_numbers_only_are_the_same() {
        let one = "charge ch_01a2-77 of 12.50 EUR was refused at 10.0.0.7:443: try again in 30s.";
        let other = "charge ch_99ff-01 of 7 EUR was refused at 10.0.0.12:443: try again in 5m0s.";
        assert_eq!(stripped(one), stripped(other));
        assert_eq!(stripped(one), "charge # of # EUR was refused at #: try again in #.");
        assert_eq!(stripped("no such product"), "no such product");
        assert_eq!(stripped(&"x".repeat(500)).len(), TEXT_LONGEST);
    }
}
