//! Reads the repository's files, and checks what a container gives to the program.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use amends_api::{
    cli::{Cli, Role},
    services,
    settings::{DEFAULTS, Settings},
};
use clap::Parser;
use serde_json::Value;

/// Set, it makes the tests write the generated parts of files in place of comparing them.
const UPDATE: &str = "UPDATE_DEPLOYMENT";

/// Returns the path of a file of the repository.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// Returns the text of a file of the repository.
pub fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the YAML documents of a file of the repository.
pub fn documents(name: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Compares a generated text with what a file contains, or writes it.
pub fn kept(name: &str, contains: &str, generated: &str) {
    if std::env::var_os(UPDATE).is_some() {
        fs::write(path(name), text(name).replacen(contains, generated, 1)).unwrap();
    } else {
        assert_eq!(contains, generated, "{name} is not up to date: {UPDATE}=1 cargo test writes it");
    }
}

/// Returns each setting with its default, whether the default is in force, and its description.
pub fn defaults() -> Vec<Setting> {
    let (mut settings, mut about) = (Vec::new(), String::new());
    for line in DEFAULTS.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        match bare.split_once(" = ") {
            Some((key, default)) if !key.contains(' ') => settings.push(Setting {
                key: key.to_owned(),
                default: default.to_owned(),
                is_set: bare == line,
                about: about.trim().to_owned(),
            }),
            _ if line.is_empty() => about.clear(),
            _ => {
                // A group's own description follows the settings of the group before.
                about.push_str(bare);
                about.push(' ');
            }
        }
    }
    settings
}

/// A setting as `amends.default.toml` describes it.
pub struct Setting {
    pub key: String,
    pub default: String,
    /// Whether the default is in force; otherwise it is an example.
    pub is_set: bool,
    pub about: String,
}

/// Returns the environment variable of a setting.
pub fn variable(key: &str) -> String {
    match key {
        "database_url" | "kafka_brokers" | "redis_url" => key.to_ascii_uppercase(),
        _ => format!("AMENDS_{}", key.to_ascii_uppercase()),
    }
}

/// What a container gives to the program.
#[derive(Debug, Default)]
pub struct Container {
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// The text of its settings file.
    pub file: Option<String>,
}

impl Container {
    /// Parses its command line and its settings as the program does, and checks that the role finds what it needs.
    pub fn check(&self) -> Result<(), String> {
        let args = std::iter::once("amends").chain(self.args.iter().map(String::as_str));
        let role = Cli::try_parse_from(args).map_err(|error| error.to_string())?.role;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("amends.toml");
        fs::write(&file, self.file.as_deref().unwrap_or_default()).unwrap();
        let ours = self.env.iter().filter(|(name, _)| name.as_str() != "AMENDS_CONFIG");
        let flags: Vec<_> =
            ours.map(|(name, value)| Ok((key(name)?, value.clone()))).collect::<Result<_, String>>()?;
        let settings = Settings::read(&services::names(), Some(&file), &flags).map_err(|e| e.to_string())?;
        needs(&role, &settings)
    }
}

/// Returns the setting that a variable sets.
fn key(name: &str) -> Result<String, String> {
    match name {
        "DATABASE_URL" | "KAFKA_BROKERS" | "REDIS_URL" => Ok(name.to_ascii_lowercase()),
        _ => match name.strip_prefix("AMENDS_") {
            Some(key) => Ok(key.to_ascii_lowercase()),
            None => Err(format!("{name} is no variable of Amends")),
        },
    }
}

/// Checks that a role finds the settings without which it does not start.
fn needs(role: &Role, settings: &Settings) -> Result<(), String> {
    let database = |user: &str| settings.database_of(user).map(drop).map_err(|error| error.to_string());
    let brokers = || settings.brokers().map(drop).map_err(|error| error.to_string());
    let is_open = settings.listen.is_some_and(|address| !address.ip().is_loopback());
    match role {
        Role::Api => {
            let has_keys = settings.jwks_url.is_some() || settings.jwt_key_file.is_some();
            if is_open && !has_keys {
                return Err("the api listens on other than loopback addresses without keys".to_owned());
            }
            database("api").and(brokers())
        }
        Role::Engine | Role::Worker { .. } => {
            if is_open && !settings.no_auth && settings.metrics_listen.is_none() {
                return Err("the role listens on other than loopback addresses without no_auth".to_owned());
            }
            let name = if let Role::Worker { name } = role { name } else { "engine" };
            if is_open && name == "inventory" && settings.service_token.is_none() {
                return Err(
                    "the worker listens on other than loopback addresses without service_token".to_owned()
                );
            }
            database(name).and(brokers())
        }
        Role::Migrate { .. } => settings.server().map(drop).map_err(|error| error.to_string()),
        _ => Ok(()),
    }
}

#[test]
fn a_container_with_a_wrong_command_or_setting_is_refused_by_name() {
    let good = || Container {
        args: ["worker", "payment"].map(str::to_owned).to_vec(),
        env: [
            ("AMENDS_PAYMENT_DATABASE_URL", "postgres://amends_payment:x@db/amends_payment"),
            ("KAFKA_BROKERS", "kafka:9092"),
            ("AMENDS_LISTEN", "0.0.0.0:8080"),
            ("AMENDS_NO_AUTH", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
        file: Some("call_lease = \"30s\"".to_owned()),
    };
    good().check().unwrap();
    let refused = |change: &dyn Fn(&mut Container), named: &str| {
        let mut container = good();
        change(&mut container);
        let refused = container.check().expect_err(named);
        assert!(refused.contains(named), "{named}: {refused}");
    };
    refused(&|container| container.args[1] = "payments".to_owned(), "payments");
    refused(&|container| container.args.push("--lissten=x".to_owned()), "--lissten");
    refused(&|container| container.file = Some("call_leese = \"30s\"".to_owned()), "call_leese");
    refused(&|container| drop(container.env.insert("AMENDS_COLOUR".into(), "red".into())), "colour");
    refused(&|container| drop(container.env.remove("AMENDS_NO_AUTH")), "no_auth");
    refused(&|container| container.args[1] = "inventory".to_owned(), "service_token");
    refused(&|container| drop(container.env.remove("KAFKA_BROKERS")), "kafka_brokers");
    refused(&|container| drop(container.env.remove("AMENDS_PAYMENT_DATABASE_URL")), "payment_database_url");
}
