//! The table of settings in docs/DEPLOYING.md, from `amends.default.toml`.

use super::support::{Setting, defaults, kept, text};

const DEPLOYING: &str = "docs/DEPLOYING.md";
const BEGIN: &str = "<!-- settings: generated from api/amends.default.toml -->\n";
const END: &str = "<!-- end of settings -->\n";

/// Returns a row for each group of settings that share a description.
fn table() -> String {
    let mut table = "| setting | default | what |\n| --- | --- | --- |\n".to_owned();
    let settings = defaults();
    for group in settings.chunk_by(|a, b| a.about == b.about) {
        let named = |one: &dyn Fn(&Setting) -> String| group.iter().map(one).collect::<Vec<_>>().join(", ");
        let names = named(&|setting| format!("`{}`", setting.key));
        let default = |setting: &Setting| match setting.default.trim_matches('"') {
            _ if !setting.is_set => "–".to_owned(),
            "" => "empty".to_owned(),
            text => format!("`{text}`"),
        };
        let defaults =
            if group.iter().any(|setting| setting.is_set) { named(&default) } else { "–".to_owned() };
        table.push_str(&format!("| {names} | {defaults} | {} |\n", group[0].about.replace('|', "\\|")));
    }
    table
}

#[test]
fn the_table_of_settings_is_what_the_defaults_say() {
    let text = text(DEPLOYING);
    let (_, rest) = text.split_once(BEGIN).expect("the begin of the table");
    let (contains, _) = rest.split_once(END).expect("the end of the table");
    kept(DEPLOYING, contains, &table());
}

#[test]
fn every_setting_is_described() {
    for setting in defaults() {
        assert!(setting.about.len() > 20, "{}: {:?}", setting.key, setting.about);
    }
}
