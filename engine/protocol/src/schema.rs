//! The messages as JSON Schema (2020-12), for workers in other languages.

/// The schema of a command, as the text that is committed at `docs/protocol/command.schema.json`.
pub fn command() -> String {
    text(schemars::schema_for!(crate::Command))
}

/// The schema of a reply, as the text that is committed at `docs/protocol/reply.schema.json`.
pub fn reply() -> String {
    text(schemars::schema_for!(crate::Reply))
}

fn text(schema: schemars::Schema) -> String {
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is JSON");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    /// `UPDATE_SCHEMAS=1 cargo test -p amends-protocol` writes them anew.
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
}
