//! Bodies and ids: read within limits, and refused with the location of the fault.

use amends_protocol::wire;
use axum::{
    body::Bytes,
    http::{HeaderMap, header},
};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;
use serde_path_to_error::{Path, Segment};
use uuid::Uuid;

use crate::{
    Fault, ProblemDetails,
    json::{self, Refused},
};

/// The longest body that is read, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;

/// Reads a JSON body and validates it.
///
/// # Errors
/// 415 without a JSON media type; 400 with the location of each fault.
pub fn read<T>(headers: &HeaderMap, body: &Bytes) -> Result<T, ProblemDetails>
where
    T: DeserializeOwned + Serialize + garde::Validate<Context = ()>,
{
    let sent = value(headers, body)?;
    if !sent.is_object() {
        return Err(ProblemDetails::invalid(vec![Fault::at("", "must be an object")]));
    }
    let value: T = serde_path_to_error::deserialize(&sent)
        .map_err(|error| ProblemDetails::invalid(vec![misfit(error.path(), &error.inner().to_string())]))?;
    let mut faults = Vec::new();
    let read = serde_json::to_value(&value).unwrap_or_default();
    objects(&sent, &read, "", &mut faults);
    if !faults.is_empty() {
        return Err(ProblemDetails::invalid(faults));
    }
    value.validate().map_err(|report| {
        let faults = report.iter().map(|(path, error)| Fault::at(field(&path.to_string()), error.message()));
        ProblemDetails::invalid(faults.collect())
    })?;
    Ok(value)
}

fn value(headers: &HeaderMap, body: &Bytes) -> Result<Value, ProblemDetails> {
    if body.is_empty() {
        return Err(ProblemDetails::unreadable("The body is missing."));
    }
    if !is_json(headers) {
        return Err(ProblemDetails::not_json());
    }
    wire::check(body).map_err(|e| ProblemDetails::unreadable(format!("It is refused: {e}.")))?;
    let mut value = json::read(body).map_err(|refused| match refused {
        Refused::Syntax(why) => ProblemDetails::unreadable(why),
        Refused::Duplicate(pointer) => {
            ProblemDetails::invalid(vec![Fault::at(pointer, "the field must be given once")])
        }
    })?;
    json::count_whole(&mut value);
    Ok(value)
}

/// Reads a field that may be left out, but not be null. Use with `#[serde(default, deserialize_with = "…")]`.
///
/// # Errors
/// The field's own.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(field: D) -> Result<Option<T>, D::Error> {
    T::deserialize(field).map(Some)
}

/// Returns whether the body is declared as JSON in UTF-8, exactly once. A browser sends any other media type to any
/// host without asking; it sends this one only if the host has allowed it.
fn is_json(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else { return false };
    let kind = kind.to_str().unwrap_or_default().to_ascii_lowercase();
    let mut parts = kind.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let is_utf8 = parts.filter_map(|p| p.strip_prefix("charset=")).all(|c| c.trim_matches('"') == "utf-8");
    let is_suffixed = essence.starts_with("application/") && essence.ends_with("+json");
    is_utf8 && (essence == "application/json" || is_suffixed)
}

/// Creates a fault from serde's message, without any text that the caller chose.
fn misfit(path: &Path, words: &str) -> Fault {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } | Segment::Enum { variant: key } => json::extend(&mut pointer, key),
            Segment::Unknown => {}
        }
    }
    if let Some(name) = words.strip_prefix("missing field `") {
        let name = name.split('`').next().unwrap_or_default();
        return Fault::at(format!("{pointer}/{name}"), "the field is missing");
    }
    // The expected form is our own text, and stands last.
    let expected = words.rsplit_once(", expected ").map(|(_, expected)| expected);
    let detail = match expected {
        Some(names) if words.starts_with("unknown field") => {
            format!("the field is unknown; known: {}", names.trim_start_matches("one of "))
        }
        Some(form) => format!("must be {}", named(form)),
        None if words.starts_with("UUID parsing failed") => "must be a UUID".to_owned(),
        None => "has an unexpected form".to_owned(),
    };
    Fault::at(pointer, detail)
}

/// Translates Rust's words for a form into JSON's.
fn named(form: &str) -> &str {
    match form {
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "a sequence" => "an array",
        "a map" => "an object",
        _ if form.starts_with("struct ") => "an object",
        _ if form.starts_with("a formatted UUID") || form.starts_with("UUID") => "a UUID",
        other => other,
    }
}

/// Serde accepts an array of fields in place of an object. The API does not.
fn objects(sent: &Value, read: &Value, place: &str, faults: &mut Vec<Fault>) {
    match (sent, read) {
        (Value::Object(sent), Value::Object(read)) => {
            for (field, value) in read {
                objects(sent.get(field).unwrap_or(&Value::Null), value, &format!("{place}/{field}"), faults);
            }
        }
        (_, Value::Object(_)) => faults.push(Fault::at(place, "must be an object")),
        (Value::Array(sent), Value::Array(read)) => {
            for (n, (sent, read)) in sent.iter().zip(read).enumerate() {
                objects(sent, read, &format!("{place}/{n}"), faults);
            }
        }
        _ => {}
    }
}

/// Converts garde's `lines[0].unit_price`, which consists of Rust names only, to a JSON pointer.
fn field(path: &str) -> String {
    if path.is_empty() {
        return String::new();
    }
    let camel = |snake: &str| {
        let mut words = snake.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |name, word| {
            let mut letters = word.chars();
            let head = letters.next().map(|c| c.to_ascii_uppercase()).into_iter();
            name + &head.chain(letters).collect::<String>()
        })
    };
    let steps = path.split(['.', '[']).map(|step| camel(step.trim_end_matches(']')));
    steps.fold(String::new(), |pointer, step| pointer + "/" + &step)
}

/// Parses an id in the path, in the hyphenated form: an id has one spelling.
///
/// # Errors
/// 400.
pub fn id(name: &'static str, text: &str) -> Result<Uuid, ProblemDetails> {
    match Uuid::try_parse(text) {
        Ok(id) if text.len() == 36 => Ok(id),
        _ => Err(ProblemDetails::invalid(vec![Fault::parameter(name, "not a UUID")])),
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use futures::executor::block_on;
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize, garde::Validate)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Basket {
        #[garde(length(min = 1), dive)]
        basket_lines: Vec<Line>,
        #[garde(skip)]
        #[serde(default)]
        owner: Option<Uuid>,
        #[garde(skip)]
        #[serde(default)]
        kind: Kind,
        #[garde(skip)]
        #[serde(default, deserialize_with = "given")]
        note: Option<String>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize, garde::Validate)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Line {
        #[garde(range(min = 1))]
        unit_price: i64,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    enum Kind {
        #[default]
        Gift,
        Sale,
    }

    fn read_text(text: &str) -> Result<Basket, ProblemDetails> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        read(&headers, &Bytes::copy_from_slice(text.as_bytes()))
    }

    fn shown(problem: ProblemDetails) -> Value {
        let body = axum::body::to_bytes(problem.into_response().into_body(), MAX_BYTES);
        serde_json::from_slice(&block_on(body).unwrap()).unwrap()
    }

    #[test]
    fn each_fault_has_the_pointer_of_its_place() {
        for (text, pointer) in [
            (r#"{"basketLines":[]}"#, "/basketLines"),
            (r#"{"basketLines":[{"unitPrice":1},{"unitPrice":0}]}"#, "/basketLines/1/unitPrice"),
            (r#"{"basketLines":[{"unitPrice":1},{"unitPrice":"x"}]}"#, "/basketLines/1/unitPrice"),
            (r#"{"basketLines":[{"unitPrice":1},{}]}"#, "/basketLines/1/unitPrice"),
            (r#"{"basketLines":[{"unitPrice":1},[1]]}"#, "/basketLines/1"),
            (r#"{"basketLines":[{"unitPrice":1},7]}"#, "/basketLines/1"),
            (r#"{"basketLines":[{"unitPrice":1,"unit_price":1}]}"#, "/basketLines/0/unit_price"),
            (r#"{"basketLines":[{"unitPrice":1}],"a.b/c~d[0]_e":1}"#, "/a.b~1c~0d[0]_e"),
            (r#"{"basketLines":[{"unitPrice":1,"unitPrice":1}]}"#, "/basketLines/0/unitPrice"),
            (r#"{"basketLines":[{"unitPrice":1}],"owner":"me"}"#, "/owner"),
            (r#"{"basketLines":[{"unitPrice":1}],"kind":"other"}"#, "/kind"),
            ("[]", ""),
            ("7", ""),
        ] {
            let problem = shown(read_text(text).unwrap_err());
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{text}: {problem}");
        }
    }

    #[test]
    fn a_problem_repeats_nothing_of_the_caller_but_a_plain_field_name_as_its_place() {
        const MARK: &str = "Zebra, expected Z";
        for text in [
            format!(r#"{{"basketLines":[{{"unitPrice":"{MARK}"}}]}}"#),
            format!(r#"{{"basketLines":"{MARK}"}}"#),
            format!(r#"{{"basketLines":[],"owner":"{MARK}"}}"#),
            format!(r#"{{"basketLines":[],"kind":"{MARK}"}}"#),
            format!(r#"{{"basketLines":[],"{MARK}\u202e":1}}"#),
            format!(r#"{{"basketLines":[],"{}{MARK}":1}}"#, "long".repeat(20)),
            format!(r#""{MARK}""#),
            MARK.to_owned(),
        ] {
            let problem = shown(read_text(&text).unwrap_err()).to_string();
            assert!(!problem.contains("Zebra"), "{text}: {problem}");
        }
        let problem = shown(read_text(r#"{"basketLines":[],"Zebra":1}"#).unwrap_err());
        assert_eq!(problem["errors"][0]["pointer"], "/Zebra");
        assert_eq!(
            problem["errors"][0]["detail"],
            "the field is unknown; known: `basketLines`, `owner`, `kind`, `note`"
        );
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_point_and_a_field_that_is_given_is_not_null() {
        let read = read_text(r#"{"basketLines":[{"unitPrice":1.0}]}"#).unwrap();
        assert_eq!(read.basket_lines, [Line { unit_price: 1 }]);
        assert!(read_text(r#"{"basketLines":[{"unitPrice":1.5}]}"#).is_err());
        let note = shown(read_text(r#"{"basketLines":[{"unitPrice":1}],"note":null}"#).unwrap_err());
        assert_eq!(note["errors"][0]["pointer"], "/note", "{note}");
    }

    #[test]
    fn a_body_needs_one_json_media_type() {
        let headers = |kinds: &[&str]| {
            let mut headers = HeaderMap::new();
            for kind in kinds {
                headers.append(header::CONTENT_TYPE, kind.parse().unwrap());
            }
            headers
        };
        for kinds in [
            ["application/json"].as_slice(),
            &["APPLICATION/JSON; charset=UTF-8"],
            &["application/json;charset=\"utf-8\""],
            &["application/merge-patch+json"],
        ] {
            assert!(is_json(&headers(kinds)), "{kinds:?}");
        }
        for kinds in [
            [].as_slice(),
            &[""],
            &["text/plain"],
            &["text/plain;x=application/json"],
            &["text/x+json"],
            &["application/x-www-form-urlencoded"],
            &["application/json; charset=utf-16"],
            &["application/json", "application/json"],
        ] {
            assert!(!is_json(&headers(kinds)), "{kinds:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_id_or_a_problem(text in ".{0,60}") {
            assert!(id("id", &text).is_err() || text.len() == 36);
        }

        #[test]
        fn any_bytes_are_read_or_refused(text in "[\\[\\]{}:,\"a-z0-9 \\\\]{0,80}") {
            let _ = read_text(&text);
        }
    }
}
