//! Any text in a saga's row or entry is parsed, or refused; a parsed row is the same after writing and parsing again.

#![no_main]

use amends_engine::core::{Entry, SagaProgress};
use chrono::DateTime;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(state) = serde_json::from_str::<SagaProgress>(text) {
        let again = state.to_json();
        assert_eq!(serde_json::from_str::<SagaProgress>(&again).expect("it was written by us").to_json(), again);
    }
    let _ = Entry::from_stored(1, DateTime::UNIX_EPOCH, text);
});
