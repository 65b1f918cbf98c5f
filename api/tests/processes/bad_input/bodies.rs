//! What can be wrong with a body, and with each of its fields at any depth: made from the body's schema and example.

use serde_json::{Value, json};

use super::cases::{Case, INVALID, Target, UNFIT, case};
use crate::support::document::type_of;

const UNREADABLE: (u16, &str) = (400, "unreadable-body");
const NOT_JSON: (u16, &str) = (415, "not-json");

impl Target<'_> {
    /// What is wrong with a body as a whole.
    pub(super) fn bodies(&self, good: &Value) -> Vec<Case> {
        let text = good.to_string();
        let kind = |kind: &str| self.keyed(self.ask().header("content-type", kind).body(text.clone()));
        let none = self.route.needs_body().then(|| case("no body", self.with(""), UNREADABLE));
        let some = [
            case("no media type", self.keyed(self.ask().body(text.clone())), NOT_JSON),
            case(
                "two media types",
                kind("application/json").header("content-type", "application/json"),
                NOT_JSON,
            ),
            case("text", kind("text/plain"), NOT_JSON),
            case("a form", kind("application/x-www-form-urlencoded"), NOT_JSON),
            case("JSON in another alphabet", kind("application/json; charset=utf-16"), NOT_JSON),
            case("half a body", self.with(&text[..text.len() - 1]), UNREADABLE),
            case("more after the end", self.with(format!("{text}{text}")), UNREADABLE),
            case("a comment", self.with(format!("{text}// evil")), UNREADABLE),
            case("a byte order mark", self.with(format!("\u{feff}{text}")), UNREADABLE),
            case("a NUL", self.with("{\"\\u0000\":1}"), UNREADABLE),
            case("half a character", self.with("{\"\\ud800\":1}"), UNREADABLE),
            case("nested too deep", self.with(format!("{}{}", "[".repeat(40), "]".repeat(40))), UNREADABLE),
            case("an array", self.with(format!("[{text}]")), INVALID).at("pointer", ""),
            case("a number", self.with("7"), INVALID).at("pointer", ""),
            case("null", self.with("null"), INVALID).at("pointer", ""),
        ];
        none.into_iter().chain(some).collect()
    }

    /// What is wrong with each field of a body, at any depth.
    pub(super) fn fields(&self, schema: &Value, value: &Value, pointer: &str, cases: &mut Vec<Case>) {
        let (Some(whole), schema) = (self.route.body(), self.route.resolved(schema)) else { return };
        let changed = |bad: Value| {
            let mut body = whole.clone();
            *body.pointer_mut(pointer).unwrap() = bad;
            body.to_string()
        };
        let mut refuse = |what: &str, bad: Value, at: &str| {
            let request = self.with(changed(bad.clone()));
            cases.push(case(format!("{what} at {pointer}: {bad:.80}"), request, INVALID).at("pointer", at));
        };
        // Any JSON: what it means is judged by the route.
        if schema.get("type").is_none() {
            return;
        }
        match type_of(&schema) {
            "object" => {
                let known = schema["properties"].as_object().unwrap();
                let mut more = value.clone();
                more["un_known"] = json!(1);
                refuse("an unknown field", more, &format!("{pointer}/un_known"));
                refuse("text", json!("evil"), pointer);
                for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    let mut less = value.clone();
                    less.as_object_mut().unwrap().remove(name);
                    refuse("a missing field", less, &format!("{pointer}/{name}"));
                    let mut none = value.clone();
                    none[name] = Value::Null;
                    refuse("null", none, &format!("{pointer}/{name}"));
                }
                cases.push(case(
                    format!("an array at {pointer}"),
                    self.with(changed(json!([value]))),
                    INVALID,
                ));
                let first = value.as_object().unwrap().keys().next().unwrap().clone();
                let twice = self.with(with_a_key_twice(&whole, pointer, ""));
                cases.push(
                    case(format!("a key twice at {pointer}"), twice, INVALID)
                        .at("pointer", format!("{pointer}/{first}")),
                );
                for (name, inner) in known {
                    if let Some(value) = value.get(name) {
                        self.fields(inner, value, &format!("{pointer}/{name}"), cases);
                    }
                }
            }
            "array" => {
                refuse("an object", json!({}), pointer);
                refuse("text", json!("evil"), pointer);
                if schema.get("minItems").is_some() {
                    refuse("nothing", json!([]), pointer);
                }
                if let Some(most) = schema["maxItems"].as_u64() {
                    refuse("too many", json!(vec![&value[0]; usize::try_from(most).unwrap() + 1]), pointer);
                }
                self.fields(&schema["items"], &value[0], &format!("{pointer}/0"), cases);
            }
            "string" => {
                refuse("a number", json!(7), pointer);
                refuse("an object", json!({}), pointer);
                let is_closed = ["enum", "pattern", "format"].iter().any(|limit| schema.get(limit).is_some());
                assert!(is_closed, "{}: nothing limits the text at {pointer}", self.route.name());
                for bad in UNFIT {
                    refuse("an unfit text", json!(bad), pointer);
                }
                refuse("too long", json!("x".repeat(201)), pointer);
            }
            "integer" => {
                refuse("text", json!("7"), pointer);
                refuse("a fraction", json!(1.5), pointer);
                refuse("a list", json!([1]), pointer);
                if let Some(least) = schema["minimum"].as_i64() {
                    refuse("too small", json!(least - 1), pointer);
                }
                if let Some(largest) = schema["maximum"].as_i64() {
                    refuse("too large", json!(largest + 1), pointer);
                }
            }
            "boolean" => {
                refuse("text", json!("true"), pointer);
                refuse("a number", json!(1), pointer);
            }
            other => panic!("{}: {pointer} is {other}", self.route.name()),
        }
    }
}

/// Writes a body in which the first key of the object at a pointer stands twice.
fn with_a_key_twice(value: &Value, pointer: &str, here: &str) -> String {
    match value {
        Value::Object(fields) => {
            let written = |(name, value): (&String, &Value)| {
                format!("{}:{}", json!(name), with_a_key_twice(value, pointer, &format!("{here}/{name}")))
            };
            let mut all: Vec<String> = fields.iter().map(written).collect();
            if here == pointer {
                all.insert(0, all[0].clone());
            }
            format!("{{{}}}", all.join(","))
        }
        Value::Array(items) => {
            let written =
                |(n, value): (usize, &Value)| with_a_key_twice(value, pointer, &format!("{here}/{n}"));
            let all: Vec<String> = items.iter().enumerate().map(written).collect();
            format!("[{}]", all.join(","))
        }
        other => other.to_string(),
    }
}
