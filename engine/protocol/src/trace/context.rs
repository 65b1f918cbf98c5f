//! W3C Trace Context: the header `traceparent`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// Id of a span; not all zero.
pub type SpanId = [u8; 8];

/// Length of a version-00 header.
const TRACEPARENT_LENGTH: usize = 55;
/// The only flag of version 00.
const SAMPLED: u8 = 1;

/// Where a span is: its trace, its id, and whether the trace is sampled. Its text is a version-00 `traceparent`.
///
/// ```
/// use amends_protocol::trace::TraceContext;
/// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let context: TraceContext = text.parse().unwrap();
/// assert!(context.is_sampled());
/// assert_eq!(context.to_string(), text);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: SpanId,
    flags: u8,
}

/// The text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no W3C traceparent")]
pub struct Malformed;

impl TraceContext {
    /// Creates a context. Ids of zeros only are invalid, and are replaced by ones.
    pub fn new(trace_id: [u8; 16], span_id: SpanId, is_sampled: bool) -> Self {
        let trace_id = if trace_id == [0; 16] { 1_u128.to_be_bytes() } else { trace_id };
        let span_id = if span_id == [0; 8] { 1_u64.to_be_bytes() } else { span_id };
        Self { trace_id, span_id, flags: u8::from(is_sampled) }
    }

    /// The context of a saga that stores none: its trace id is its own id, and nothing is sampled.
    pub fn of_saga(saga: Uuid) -> Self {
        let mut span_id = [0; 8];
        span_id.copy_from_slice(&saga.as_bytes()[8..]);
        Self::new(*saga.as_bytes(), span_id, false)
    }

    /// Returns the context of another span of this trace.
    pub fn with_span(self, span_id: SpanId) -> Self {
        Self::new(self.trace_id, span_id, self.is_sampled())
    }

    /// Returns the context of the span in which a worker handles the message that has this context. It is computed, so
    /// that a reader of the message knows the span.
    pub fn handling(self) -> Self {
        // A bijection (the finalizer of splitmix64), so that different messages have different spans.
        let mut mixed = u64::from_be_bytes(self.span_id).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.with_span((mixed ^ (mixed >> 31)).to_be_bytes())
    }

    /// Returns the trace's id.
    pub fn trace_id(self) -> [u8; 16] {
        self.trace_id
    }

    /// Returns the trace's id as 32 digits of lower-case hex.
    pub fn trace_id_hex(self) -> String {
        hex::encode(self.trace_id)
    }

    /// Returns the span's id.
    pub fn span_id(self) -> SpanId {
        self.span_id
    }

    /// Returns whether spans of this trace are recorded.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED == SAMPLED
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.span_id));
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", self.flags)
    }
}

impl FromStr for TraceContext {
    type Err = Malformed;

    /// Reads a header of version 00, or of a later version, whose further fields are ignored (W3C Trace Context, 3.2.4).
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bytes = text.as_bytes();
        let is_later = bytes.len() > TRACEPARENT_LENGTH && bytes[TRACEPARENT_LENGTH] == b'-';
        if bytes.len() != TRACEPARENT_LENGTH && !is_later {
            return Err(Malformed);
        }
        if [2, 35, 52].into_iter().any(|at| bytes[at] != b'-') {
            return Err(Malformed);
        }
        let version: [u8; 1] = lower_hex(&bytes[..2])?;
        if version == [0xff] || (version == [0] && is_later) {
            return Err(Malformed);
        }
        let (trace_id, span_id) = (lower_hex(&bytes[3..35])?, lower_hex(&bytes[36..52])?);
        let [flags] = lower_hex(&bytes[53..55])?;
        if trace_id == [0; 16] || span_id == [0; 8] {
            return Err(Malformed);
        }
        Ok(Self::new(trace_id, span_id, flags & SAMPLED == SAMPLED))
    }
}

/// Upper case is malformed.
fn lower_hex<const N: usize>(text: &[u8]) -> Result<[u8; N], Malformed> {
    let mut bytes = [0; N];
    if text.iter().any(u8::is_ascii_uppercase) {
        return Err(Malformed);
    }
    hex::decode_to_slice(text, &mut bytes).map_err(|_| Malformed)?;
    Ok(bytes)
}

impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceContext {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_taken_as_w3c_says_and_anything_else_is_malformed() {
        let parsed = |text: &str| text.parse::<TraceContext>();
        assert_eq!(parsed(TRACEPARENT).unwrap().to_string(), TRACEPARENT);
        // Of the flags only the first is known.
        assert!(parsed(&TRACEPARENT.replace("-01", "-03")).unwrap().is_sampled());
        assert!(!parsed(&TRACEPARENT.replace("-01", "-02")).unwrap().is_sampled());
        // A later version may say more, or flags that are unknown here.
        let later = TRACEPARENT.replacen("00-", "cc-", 1);
        for text in [later.clone(), format!("{later}-what-else")] {
            assert_eq!(parsed(&text).unwrap().to_string(), TRACEPARENT);
        }
        for text in [
            "".to_owned(),
            TRACEPARENT.to_uppercase(),
            TRACEPARENT.replacen("00-", "ff-", 1),
            format!("{TRACEPARENT}-more"),
            format!("{later}more"),
            TRACEPARENT[..54].to_owned(),
            format!(" {TRACEPARENT}"),
            TRACEPARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            TRACEPARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            TRACEPARENT.replace('b', "g"),
            TRACEPARENT.replace("-00f0", "_00f0"),
            format!("{}\u{e9}", &TRACEPARENT[..53]),
        ] {
            assert_eq!(parsed(&text), Err(Malformed), "{text}");
        }
    }

    #[test]
    fn a_saga_without_a_context_has_its_id_as_trace_id_and_is_not_sampled() {
        let saga: Uuid = "01980000-0000-7000-8000-000000000001".parse().unwrap();
        let text = TraceContext::of_saga(saga).to_string();
        assert_eq!(text, "00-01980000000070008000000000000001-8000000000000001-00");
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read_without_a_panic(text in ".{0,80}") {
            let _ = text.parse::<TraceContext>();
        }

        #[test]
        fn any_context_is_read_back_and_its_handling_is_another_span(trace: [u8; 16], span: [u8; 8], sampled: bool) {
            let context = TraceContext::new(trace, span, sampled);
            prop_assert_eq!(context.to_string().parse(), Ok(context));
            prop_assert_eq!(context.handling().trace_id(), context.trace_id());
            prop_assert_ne!(context.handling().span_id(), context.span_id());
        }
    }
}
