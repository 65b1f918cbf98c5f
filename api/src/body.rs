//! Bodies and paths: read within limits, refused with the place of the fault.

use axum::{
    body::Bytes,
    http::{HeaderMap, header},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use crate::problem::{Fault, Problem};

/// The longest body that is read, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;

/// Reads a JSON body and checks it.
pub fn read<T>(headers: &HeaderMap, body: &Bytes) -> Result<T, Problem>
where
    T: DeserializeOwned + Serialize + garde::Validate<Context = ()>,
{
    if body.is_empty() {
        return Err(Problem::Unreadable("The body is missing.".to_owned()));
    }
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        let kind = kind.to_str().unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        if kind != "application/json" && !kind.ends_with("+json") {
            return Err(Problem::NotJson);
        }
    }
    amends_protocol::wire::check(body).map_err(|e| Problem::Unreadable(format!("It is refused: {e}.")))?;
    let mut json = serde_json::Deserializer::from_slice(body);
    let value: T = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let inner = error.inner();
        if inner.is_data() {
            let detail = inner.to_string();
            let detail = detail.split(" at line ").next().unwrap_or_default();
            let mut place = pointer(&error.path().to_string());
            if let Some(field) = detail.strip_prefix("missing field `") {
                place = format!("{place}/{}", field.trim_end_matches('`'));
            }
            Problem::Invalid(vec![Fault::at(place, detail)])
        } else {
            Problem::Unreadable(inner.to_string())
        }
    })?;
    json.end().map_err(|e| Problem::Unreadable(e.to_string()))?;
    let mut faults = Vec::new();
    let read = serde_json::to_value(&value).unwrap_or_default();
    objects(&serde_json::from_slice(body).unwrap_or_default(), &read, "", &mut faults);
    if !faults.is_empty() {
        return Err(Problem::Invalid(faults));
    }
    value.validate().map_err(|report| {
        let faults =
            report.iter().map(|(path, error)| Fault::at(pointer(&path.to_string()), error.message()));
        Problem::Invalid(faults.collect())
    })?;
    Ok(value)
}

/// serde reads an array where an object is meant, its fields in order. Nobody has promised that.
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

/// `lines[0].quantity` as a JSON pointer.
fn pointer(path: &str) -> String {
    if path == "." || path.is_empty() {
        return String::new();
    }
    let mut pointer = String::from("/");
    for character in path.chars() {
        match character {
            '.' | '[' => pointer.push('/'),
            ']' => {}
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            // serde names are Rust's or the wire's; validation's are Rust's.
            other => pointer.push(other),
        }
    }
    pointer.split('/').map(camel).collect::<Vec<_>>().join("/")
}

fn camel(snake: &str) -> String {
    let mut words = snake.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let head = letters.next().map(|c| c.to_ascii_uppercase()).into_iter();
        name + &head.chain(letters).collect::<String>()
    })
}

/// An id in the path.
pub fn id(name: &'static str, text: &str) -> Result<Uuid, Problem> {
    // Only the hyphenated form: an id has one spelling.
    match Uuid::try_parse(text) {
        Ok(id) if text.len() == 36 => Ok(id),
        _ => Err(Problem::Invalid(vec![Fault::parameter(name, "not a UUID")])),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    #[test]
    fn a_path_becomes_the_pointer_that_the_client_sees() {
        assert_eq!(pointer("lines[0].unit_price"), "/lines/0/unitPrice");
        assert_eq!(pointer("shippingAddress.postalCode"), "/shippingAddress/postalCode");
        assert_eq!(pointer("."), "");
    }

    const ORDER: &str = r#"{"customerId":"c-1","currency":"EUR","lines":[{"productId":"mug","quantity":2,"unitPrice":1250}],
        "payment":{"method":"card_approved"},"shippingAddress":{"name":"T","line1":"1","city":"V","postalCode":"1","country":"AT"}}"#;

    fn order(bytes: Vec<u8>) -> Result<crate::orders::request::NewOrder, Problem> {
        read(&HeaderMap::new(), &Bytes::from(bytes))
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_order_or_a_problem(bytes in vec(any::<u8>(), 0..400)) {
            let _ = order(bytes);
        }

        #[test]
        fn an_order_with_a_few_bytes_changed_is_an_order_or_a_problem(
            changes in vec((any::<Index>(), any::<u8>()), 1..8),
            cut in any::<Index>(),
        ) {
            let mut bytes = ORDER.as_bytes().to_vec();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let Ok(order) = order(bytes.clone()) {
                assert!(order.total() >= 0, "it was checked");
            }
            bytes.truncate(cut.index(bytes.len()));
            let _ = order(bytes);
        }

        #[test]
        fn any_text_is_an_id_or_a_problem(text in ".{0,60}") {
            assert!(id("id", &text).is_err() || text.len() == 36);
        }
    }

    #[test]
    fn the_order_that_is_changed_is_sound() {
        assert!(order(ORDER.as_bytes().to_vec()).is_ok());
    }
}
