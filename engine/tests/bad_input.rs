//! Any text in a row or an entry is read or refused; nothing panics.

mod support;

use amends_engine::core::{Entry, SagaProgress};
use chrono::DateTime;
use proptest::{collection::vec, prelude::*, sample::Index};

/// Returns a saga's life, as it is stored.
fn stored() -> Vec<String> {
    let mut stay = support::waiting_for("charge");
    stay.refuses("charge execute", "no");
    let state = stay.saga.state.to_json();
    stay.entries.iter().map(|entry| entry.body(0)).chain([state]).collect()
}

fn read(text: &str) {
    let _ = serde_json::from_str::<SagaProgress>(text);
    let _ = Entry::from_stored(1, DateTime::UNIX_EPOCH, text);
}

proptest! {
    #[test]
    fn any_text_is_a_row_or_an_error(text in ".{0,200}") {
        read(&text);
    }

    #[test]
    fn a_row_with_a_few_bytes_changed_is_a_row_or_an_error(
        changes in vec((any::<Index>(), 0x20_u8..0x7f), 1..8),
        cut in any::<Index>(),
    ) {
        for stored in stored() {
            let mut bytes = stored.into_bytes();
            for (place, byte) in &changes {
                let place = place.index(bytes.len());
                bytes[place] = *byte;
            }
            let text = String::from_utf8_lossy(&bytes);
            read(&text);
            let cut = cut.index(text.len());
            read(text.get(..cut).unwrap_or_default());
        }
    }
}
