//! JSON in which no object has a key twice, because readers differ in which of the two values they use.

use std::{cell::RefCell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Why bytes are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Not JSON. The text says why and where, in serde's words, and repeats nothing of the bytes.
    Syntax(String),
    /// The JSON pointer of a duplicate key.
    Duplicate(String),
}

/// Reads all of the bytes.
///
/// # Errors
/// They are not JSON, or an object has a key twice.
pub fn read(bytes: &[u8]) -> Result<Value, Refused> {
    let place = RefCell::new(Place::default());
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let read = Strict(&place).deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    read.map_err(|error| match place.into_inner().duplicate {
        Some(pointer) => Refused::Duplicate(pointer),
        None => Refused::Syntax(error.to_string()),
    })
}

/// The largest number below which every whole number has a spelling of its own as a floating-point number.
const WHOLE_MOST: f64 = 9_007_199_254_740_992.0;

/// Turns every number like `5.0` into `5`: JSON has one kind of number, and some programs write all of them so.
pub fn count_whole(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|_| number.is_f64())
                && float.fract() == 0.0
                && float.abs() <= WHOLE_MOST
            {
                *number = (float as i64).into();
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(count_whole),
        Value::Object(fields) => fields.values_mut().for_each(count_whole),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// The longest name of a caller's field that a pointer repeats, in characters.
const POINTER_NAME_LONGEST: usize = 64;

/// Extends a JSON pointer by a key that the caller chose. A key that is long, or not plain text, is left out; the
/// pointer then names the object.
pub(crate) fn extend(pointer: &mut String, key: &str) {
    if key.chars().count() <= POINTER_NAME_LONGEST && crate::text::check(key).is_ok() {
        pointer.push('/');
        pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
    }
}

/// The position of the reader.
#[derive(Default)]
struct Place {
    pointer: String,
    duplicate: Option<String>,
}

#[derive(Clone, Copy)]
struct Strict<'a>(&'a RefCell<Place>);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        let outside = self.0.borrow().pointer.len();
        loop {
            let index = format!("/{}", read.len());
            self.0.borrow_mut().pointer.push_str(&index);
            let Some(element) = elements.next_element_seed(self)? else { break };
            self.0.borrow_mut().pointer.truncate(outside);
            read.push(element);
        }
        self.0.borrow_mut().pointer.truncate(outside);
        Ok(Value::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        let outside = self.0.borrow().pointer.len();
        while let Some(key) = entries.next_key::<String>()? {
            extend(&mut self.0.borrow_mut().pointer, &key);
            if read.contains_key(&key) {
                let mut place = self.0.borrow_mut();
                place.duplicate = Some(place.pointer.clone());
                return Err(A::Error::custom("a key stands twice"));
            }
            let value = entries.next_value_seed(self)?;
            self.0.borrow_mut().pointer.truncate(outside);
            read.insert(key, value);
        }
        Ok(Value::Object(read))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_refused_with_its_place() {
        for (text, pointer) in [
            (r#"{"a":1,"a":1}"#, "/a"),
            (r#"{"a":[0,{"b":1,"c":{"d":1,"d":2}}]}"#, "/a/1/c/d"),
            (r#"{"x":1,"\u0078":2}"#, "/x"),
            (r#"{"a/b~c":1,"a/b~c":1}"#, "/a~1b~0c"),
            (r#"{"a":{"":1,"":1}}"#, "/a"),
        ] {
            assert_eq!(read(text.as_bytes()), Err(Refused::Duplicate(pointer.to_owned())), "{text}");
        }
        assert!(read(br#"[{"a":1},{"a":1}]"#).is_ok());
    }

    #[test]
    fn a_whole_number_is_whole_however_it_is_written() {
        let counted = |text: &str| {
            let mut value = read(text.as_bytes()).unwrap();
            count_whole(&mut value);
            value.to_string()
        };
        assert_eq!(
            counted(r#"{"a":[5.0,1e3,-7.0,-0.0],"b":{"c":0.0}}"#),
            r#"{"a":[5,1000,-7,0],"b":{"c":0}}"#
        );
        for text in ["1.5", "[1e300]", "9007199254740993", "\"1.0\""] {
            assert_eq!(counted(text), read(text.as_bytes()).unwrap().to_string(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_serde_reads(text in r#"[\[\]{}:,"a-c0-9.eE \\un-]{0,40}"#) {
            match (read(text.as_bytes()), serde_json::from_str::<Value>(&text)) {
                (Ok(ours), Ok(serdes)) => assert_eq!(ours, serdes),
                (Err(Refused::Syntax(_)), Err(_)) | (Err(Refused::Duplicate(_)), _) => {}
                (ours, serdes) => panic!("{ours:?} {serdes:?}"),
            }
        }
    }
}
