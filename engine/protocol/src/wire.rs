//! Parsing and writing of messages, with limits that apply wherever messages come in.

use memchr::{memchr, memchr2};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Command, Json, Reason, Reply, SCHEMA_VERSION};

/// The largest message that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// The deepest nesting that is read.
pub const MAX_DEPTH: usize = 32;

/// The longest reason code, in characters of `[a-z0-9_]`.
pub const MAX_REASON_CODE: usize = 64;
/// The longest reason text, in characters.
pub const MAX_REASON_TEXT: usize = 200;
/// The longest result, in bytes.
pub const MAX_RESULT: usize = 16 << 10;
/// Number of characters kept of a result that is too long.
const RESULT_KEPT: usize = 1000;
/// Suffix of a code that was cut.
const CUT: &str = "_cut";

/// Why bytes are not a valid message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than [`MAX_BYTES`].
    #[error("{0} bytes; at most {MAX_BYTES} are read")]
    TooLong(usize),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// Contains the character U+0000, which Postgres cannot store.
    #[error("holds the character U+0000")]
    Nul,
    /// Not JSON, or not of the message's shape.
    #[error("{0}")]
    Shape(String),
}

/// Parses a command. A command of a newer format than [`SCHEMA_VERSION`] is returned as well, so that the worker can
/// answer `unsupported`; see [`is_newer`].
///
/// # Errors
/// [`Error`]: the bytes belong on the dead letter topic.
pub fn command(bytes: &[u8]) -> Result<Command, Error> {
    let command: Command = read(bytes)?;
    match command.fault() {
        Some(fault) => Err(Error::Shape(fault.into())),
        None => Ok(command),
    }
}

/// Parses a reply. A reason or result that is too long is cut, visibly; the outcome counts all the same.
///
/// # Errors
/// [`Error`]: the bytes belong on the dead letter topic.
pub fn reply(bytes: &[u8]) -> Result<Reply, Error> {
    let mut reply: Reply = read(bytes)?;
    if is_newer(reply.schema_version) {
        return Err(Error::Shape(format!(
            "schemaVersion: {} is newer than {SCHEMA_VERSION}",
            reply.schema_version
        )));
    }
    if !(1..=crate::command::MAX_ATTEMPT).contains(&reply.attempt) {
        return Err(Error::Shape("attempt: counts from 1 and stays below 2^31".into()));
    }
    if reply.slot >= crate::SLOTS {
        return Err(Error::Shape("slot: out of 0-1023".into()));
    }
    if let Some(reason) = &mut reply.reason {
        cut_reason(reason);
    }
    if let Some(result) = reply.result.as_mut().filter(|result| result.get().len() > MAX_RESULT) {
        *result = cut_result(result.get());
    }
    Ok(reply)
}

/// Reduces the code to `[a-z0-9_]` and [`MAX_REASON_CODE`] characters, and the text to [`MAX_REASON_TEXT`].
fn cut_reason(reason: &mut Reason) {
    let fits = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_');
    if reason.code.len() > MAX_REASON_CODE || !reason.code.chars().all(fits) || reason.code.is_empty() {
        let lower = |c: char| c.to_ascii_lowercase();
        let spelt = reason.code.chars().take(MAX_REASON_CODE + 1).map(lower);
        let mut code: String = spelt.map(|c| if fits(c) { c } else { '_' }).collect();
        if code.len() > MAX_REASON_CODE {
            code.truncate(MAX_REASON_CODE - CUT.len());
            code.push_str(CUT);
        }
        reason.code = if code.is_empty() { "unspecified".to_owned() } else { code };
    }
    if let Some((at, _)) = reason.text.char_indices().nth(MAX_REASON_TEXT) {
        let last = reason.text[..at].char_indices().next_back().map_or(0, |(last, _)| last);
        reason.text.truncate(last);
        reason.text.push('…');
    }
}

/// Returns the beginning of a result that is too long: `{"cut":true,"bytes":20000,"begins":"…"}`.
fn cut_result(result: &str) -> Json {
    let begins: String = result.chars().take(RESULT_KEPT).collect();
    serde_json::json!({ "cut": true, "bytes": result.len(), "begins": begins }).into()
}

/// Returns whether a newer program than this one wrote the message.
pub fn is_newer(schema_version: u16) -> bool {
    schema_version > SCHEMA_VERSION
}

/// Parses any JSON type within the limits of length, depth and characters.
///
/// # Errors
/// [`Error`].
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    check(bytes)?;
    // Validates UTF-8 once for the whole text: `from_slice` would validate each string separately.
    let text = std::str::from_utf8(bytes).map_err(|e| Error::Shape(e.to_string()))?;
    serde_json::from_str(text).map_err(|e| Error::Shape(e.to_string()))
}

/// Serialises a message.
pub fn write<T: Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages have string keys and finite numbers only")
}

/// Checks length, depth and the absence of U+0000 without parsing.
///
/// # Errors
/// [`Error`], never [`Error::Shape`].
pub fn check(bytes: &[u8]) -> Result<(), Error> {
    if bytes.len() > MAX_BYTES {
        return Err(Error::TooLong(bytes.len()));
    }
    if memchr(0, bytes).is_some() {
        return Err(Error::Nul);
    }
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = after_string(bytes, at)?,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(Error::TooDeep);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Returns the end of the string that begins before `at`; the end of the input if the string is not closed.
fn after_string(bytes: &[u8], mut at: usize) -> Result<usize, Error> {
    while let Some(length) = memchr2(b'"', b'\\', &bytes[at..]) {
        at += length + 1;
        if bytes[at - 1] == b'"' {
            return Ok(at);
        }
        if bytes[at..].starts_with(b"u0000") {
            return Err(Error::Nul);
        }
        at = (at + 1).min(bytes.len());
    }
    Ok(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sound() -> Command {
        let at = chrono::DateTime::from_timestamp(1_767_225_600, 0).expect("an instant");
        let saga = uuid::Uuid::from_u128(7);
        Command {
            schema_version: SCHEMA_VERSION,
            command_id: crate::id::execute(saga, "pay", 0, 1),
            kind: crate::Kind::Execute,
            target: None,
            saga_id: saga,
            slot: 7,
            business_key: "order-7".into(),
            workflow: "order_fulfilment".into(),
            workflow_version: 1,
            step: "pay".into(),
            part: 0,
            generation: 1,
            attempt: 1,
            epoch: 0,
            issued_at: at,
            sent_at: Some(at),
            target_issued_at: None,
            resolved: None,
            deadline: at,
            reply_token: "00".repeat(16),
            payload: serde_json::json!({ "amount": 2500, "currency": "EUR" }).into(),
        }
    }

    #[test]
    fn a_nul_is_refused_and_an_escaped_backslash_before_u0000_is_not() {
        assert_eq!(check(br#""a\u0000b""#), Err(Error::Nul));
        assert_eq!(check(b"\"a\0b\""), Err(Error::Nul));
        assert_eq!(check(br#""a\\u0000b""#), Ok(()));
    }

    #[test]
    fn what_is_too_long_or_too_deep_is_refused() {
        assert_eq!(check(&vec![b' '; MAX_BYTES + 1]), Err(Error::TooLong(MAX_BYTES + 1)));
        assert_eq!(check("[".repeat(33).as_bytes()), Err(Error::TooDeep));
        assert_eq!(check(format!("{}{}", "[".repeat(32), "]".repeat(32)).as_bytes()), Ok(()));
        assert_eq!(check(format!("\"{}\"", "[".repeat(99)).as_bytes()), Ok(()));
    }

    /// Parses a reply with this reason and result.
    fn received(reason: Reason, result: Json) -> Reply {
        let command = sound();
        let mut sent = command.reply(crate::Outcome::Refused, command.issued_at);
        (sent.reason, sent.result) = (Some(reason), Some(result));
        let received = reply(&write(&sent)).expect("it counts");
        assert_eq!(received.outcome, crate::Outcome::Refused);
        received
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut_and_shows_it() {
        for (code, read) in [
            ("card_declined", "card_declined".to_owned()),
            ("Card-Declined!", "card_declined_".to_owned()),
            ("", "unspecified".to_owned()),
            (&"a".repeat(64), "a".repeat(64)),
            (&"a".repeat(65), format!("{}_cut", "a".repeat(60))),
            (&"ä".repeat(100_000), format!("{}_cut", "_".repeat(60))),
        ] {
            let received = received(Reason::new(code, ""), Json::null());
            assert_eq!(received.reason.map(|r| r.code), Some(read), "{code:.80}");
        }
        for (text, read) in [
            ("ä".repeat(200), "ä".repeat(200)),
            ("ä".repeat(201), format!("{}…", "ä".repeat(199))),
            ("x".repeat(100_000), format!("{}…", "x".repeat(199))),
        ] {
            let received = received(Reason::new("no", text), Json::null());
            assert_eq!(received.reason.map(|r| r.text), Some(read));
        }
    }

    #[test]
    fn a_result_that_is_too_long_is_cut_and_shows_it() {
        // Two bytes are the quotes.
        let most = serde_json::json!("x".repeat(MAX_RESULT - 2));
        assert_eq!(received(Reason::new("no", ""), most.clone().into()).result, Some(most.into()));
        let more = Json::from(serde_json::json!("ä".repeat(MAX_RESULT)));
        let cut: serde_json::Value =
            received(Reason::new("no", ""), more.clone()).result.unwrap().read().unwrap();
        assert_eq!(cut["bytes"], more.get().len());
        assert!(
            cut["begins"]
                .as_str()
                .is_some_and(|text| text.starts_with("\"ä") && text.chars().count() == 1000)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = command(&bytes);
            let _ = reply(&bytes);
        }

        /// An almost valid message gets further into the parser than random bytes.
        #[test]
        fn a_message_with_a_few_bytes_changed_is_a_message_or_an_error(
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<proptest::sample::Index>(),
        ) {
            let sound = sound();
            let answered = write(&sound.reply(crate::Outcome::Succeeded, sound.issued_at));
            for mut bytes in [write(&sound), answered] {
                for (place, byte) in &changes {
                    let place = place.index(bytes.len());
                    bytes[place] = *byte;
                }
                let _ = (command(&bytes), reply(&bytes));
                bytes.truncate(cut.index(bytes.len()));
                let _ = (command(&bytes), reply(&bytes));
            }
        }
    }
}
