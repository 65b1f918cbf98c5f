//! The messages as JSON Schema (2020-12), for workers in other languages.

use serde_json::json;

/// Returns the schema of a command: the text that is committed at `docs/protocol/command.schema.json`.
pub fn command() -> String {
    text(schemars::schema_for!(crate::Command))
}

/// Returns the schema of a reply: the text that is committed at `docs/protocol/reply.schema.json`.
pub fn reply() -> String {
    text(schemars::schema_for!(crate::Reply))
}

/// Adds a rule that the types do not express: an execute has no target, and every other kind has one.
pub(crate) fn only_an_execute_has_no_target(schema: &mut schemars::Schema) {
    let of_execute = json!({ "properties": { "kind": { "const": "execute" } }, "required": ["kind"] });
    schema.insert("if".to_owned(), of_execute);
    schema.insert("then".to_owned(), json!({ "properties": { "target": { "type": "null" } } }));
    let about_another = json!({ "properties": { "target": { "type": "string" } }, "required": ["target"] });
    schema.insert("else".to_owned(), about_another);
}

fn text(schema: schemars::Schema) -> String {
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is JSON");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use serde_json::{Value, json};

    use crate::{Kind, Outcome, id, wire};

    /// `UPDATE_SCHEMAS=1 cargo test -p amends-protocol` rewrites the committed schemas.
    #[test]
    fn the_committed_schemas_are_those_of_the_types() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol");
        for (name, now) in [("command", super::command()), ("reply", super::reply())] {
            let path = dir.join(format!("{name}.schema.json"));
            if env::var_os("UPDATE_SCHEMAS").is_some() {
                fs::create_dir_all(&dir).unwrap();
                fs::write(&path, &now).unwrap();
            }
            assert_eq!(fs::read_to_string(&path).unwrap_or_default(), now, "{} has drifted", path.display());
        }
    }

    #[test]
    fn the_schemas_say_nothing_of_rust() {
        for schema in [super::command(), super::reply()] {
            for word in ["[`", "::", "Rust", "serde"] {
                assert!(!schema.contains(word), "{word}");
            }
        }
    }

    /// Returns whether a value is valid, as far as these schemas need it. Formats are not checked: the values tried
    /// below have correct ones.
    fn fits(root: &Value, schema: &Value, value: &Value) -> bool {
        let Some(rules) = schema.as_object() else { return schema != &Value::Bool(false) };
        rules.iter().all(|(rule, says)| match rule.as_str() {
            "$ref" => {
                let path = says.as_str().and_then(|path| path.strip_prefix('#')).expect("a reference within");
                fits(root, root.pointer(path).expect("it is there"), value)
            }
            "type" => match says {
                Value::Array(types) => types.iter().any(|t| is(t, value)),
                one => is(one, value),
            },
            "const" => says == value,
            "enum" => says.as_array().expect("values").contains(value),
            "minimum" => value.as_f64().is_none_or(|n| n >= says.as_f64().expect("a number")),
            "maximum" => value.as_f64().is_none_or(|n| n <= says.as_f64().expect("a number")),
            "required" => value.as_object().is_none_or(|fields| {
                says.as_array()
                    .expect("names")
                    .iter()
                    .all(|n| fields.contains_key(n.as_str().expect("a name")))
            }),
            "properties" => says
                .as_object()
                .expect("schemas")
                .iter()
                .all(|(name, of)| value.get(name).is_none_or(|field| fits(root, of, field))),
            "items" => value.as_array().is_none_or(|items| items.iter().all(|item| fits(root, says, item))),
            "oneOf" | "anyOf" => says.as_array().expect("schemas").iter().any(|of| fits(root, of, value)),
            "if" => {
                let branch = if fits(root, says, value) { "then" } else { "else" };
                rules.get(branch).is_none_or(|of| fits(root, of, value))
            }
            "then" | "else" | "title" | "description" | "default" | "format" | "$schema" | "$defs" => true,
            other => panic!("this test does not know {other}"),
        })
    }

    fn is(name: &Value, value: &Value) -> bool {
        match name.as_str().expect("a type") {
            "null" => value.is_null(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("this test does not know {other}"),
        }
    }

    /// Returns variants of a message: each field absent, null, and at the edges of its range.
    fn variants(sound: &Value) -> Vec<Value> {
        let edges = [
            json!(null),
            json!(-1),
            json!(0),
            json!(1),
            json!(2),
            json!(1023),
            json!(1024),
            json!(65_535),
            json!(65_536),
            json!(2_147_483_647_u32),
            json!(2_147_483_648_u32),
            json!(4_294_967_295_u32),
            json!(4_294_967_296_u64),
            json!(1.5),
            json!("execute"),
            json!("nothing of ours"),
            json!([]),
            json!({}),
        ];
        let mut all = vec![sound.clone()];
        for name in sound.as_object().expect("a message").keys() {
            let mut without = sound.clone();
            without.as_object_mut().expect("a message").remove(name);
            all.push(without);
            for edge in &edges {
                // This test does not distinguish text with a format from other text.
                let text = sound[name].is_string() && edge.is_string() && name != "kind" && name != "outcome";
                if !text {
                    let mut changed = sound.clone();
                    changed[name] = edge.clone();
                    all.push(changed);
                }
            }
        }
        all
    }

    #[test]
    fn what_the_schemas_say_is_what_is_enforced() {
        let saga = uuid::Uuid::from_u128(7);
        let execute = id::execute(saga, "pay", 0, 1);
        let (commands, replies) = (super::command(), super::reply());
        let [commands, replies]: [Value; 2] =
            [commands, replies].map(|s| serde_json::from_str(&s).expect("JSON"));
        let mut refused = 0;
        for kind in [Kind::Execute, Kind::Compensate, Kind::Probe, Kind::Fence] {
            let target = (kind != Kind::Execute).then_some(execute);
            let command = json!({
                "schemaVersion": 1, "commandId": id::of(kind, execute), "kind": kind, "target": target, "sagaId": saga,
                "slot": 7, "businessKey": "order-7", "workflow": "order_fulfilment", "workflowVersion": 1, "step": "pay",
                "part": 0, "generation": 1, "attempt": 1, "epoch": 0, "issuedAt": "2026-01-01T00:00:00Z",
                "sentAt": "2026-01-01T00:00:00Z", "deadline": "2026-01-01T00:00:10Z", "replyToken": "00", "payload": {},
            });
            for variant in variants(&command) {
                // A schema cannot express that an id belongs to its kind and target.
                if variant["kind"] != command["kind"] && fits(&commands, &commands, &variant) {
                    continue;
                }
                let enforced = wire::command(variant.to_string().as_bytes());
                assert_eq!(fits(&commands, &commands, &variant), enforced.is_ok(), "{variant}: {enforced:?}");
                refused += usize::from(enforced.is_err());
            }
            let sound = wire::command(command.to_string().as_bytes()).expect("a sound command");
            let mut reply = sound.reply(Outcome::Refused, sound.issued_at);
            reply.reason = Some(crate::Reason::new("card_declined", "declined"));
            reply.exposure = vec![crate::Exposure::new("money_captured", "EUR", 1)];
            for variant in variants(&serde_json::to_value(&reply).expect("JSON")) {
                let enforced = wire::reply(variant.to_string().as_bytes());
                assert_eq!(fits(&replies, &replies, &variant), enforced.is_ok(), "{variant}: {enforced:?}");
                refused += usize::from(enforced.is_err());
            }
        }
        assert!(refused > 1_000, "{refused}");
    }
}
