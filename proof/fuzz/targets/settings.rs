//! Any value of any setting is accepted, or refused in one line that names the setting.

#![no_main]

use std::sync::LazyLock;

use amends_api::{services, settings::Settings};
use libfuzzer_sys::fuzz_target;

/// All settings, as the program itself lists them.
static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let commented = Settings::read(&services::names(), None, &[]).expect("the defaults").commented();
    let keys = commented.lines().filter_map(|line| line.trim_start_matches("# ").split_once(" = "));
    keys.map(|(key, _)| key.to_owned()).filter(|key| !key.contains(' ')).collect()
});

fuzz_target!(|input: (u8, String)| {
    let (which, value) = input;
    let key = KEYS[usize::from(which) % KEYS.len()].clone();
    if let Err(error) = Settings::read(&services::names(), None, &[(key.clone(), value)]) {
        let message = error.to_string();
        assert!(!message.contains('\n') && message.contains(&key), "{message}");
    }
});
