//! `docker-compose.yml`, `.env.example` and the `Dockerfile`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::support::{self, Container, defaults, documents, text, variable};

const COMPOSE: &str = "docker-compose.yml";

fn services() -> Map<String, Value> {
    documents(COMPOSE).remove(0)["services"].as_object().expect("services").clone()
}

/// Returns the services that run the program.
fn ours() -> impl Iterator<Item = (String, Value)> {
    services().into_iter().filter(|(_, service)| !service["build"].is_null())
}

/// Returns the variables of a text, `${NAME:-default}`, with their defaults.
fn variables(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::<_, BTreeSet<_>>::new();
    for part in text.split("${").skip(1) {
        let inside = part.split_once('}').expect("} after ${").0;
        let (name, default) = inside.split_once(":-").unwrap_or_else(|| panic!("{inside} has no default"));
        found.entry(name.to_owned()).or_default().insert(default.to_owned());
    }
    found
}

/// Puts the defaults in place of the variables.
fn with_defaults(text: &str) -> String {
    variables(text).into_iter().fold(text.to_owned(), |text, (name, defaults)| {
        defaults.iter().fold(text, |text, default| text.replace(&format!("${{{name}:-{default}}}"), default))
    })
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|word| word.as_str().expect("a word").to_owned()).collect()
}

#[test]
fn the_program_accepts_every_services_command_and_settings() {
    let mut roles = BTreeSet::new();
    for (name, service) in ours() {
        // The image's entry point is the program.
        let entry = words(&service["entrypoint"]).into_iter().skip(1);
        let args: Vec<_> = entry.chain(words(&service["command"])).collect();
        roles.insert(args[..args.len().min(2)].join(" "));
        let environment = service["environment"].as_object().into_iter().flatten();
        let env =
            environment.map(|(name, value)| (name.clone(), with_defaults(value.as_str().expect("a text"))));
        let container = Container { args, env: env.collect(), file: None };
        if let Err(refused) = container.check() {
            panic!("{name}: {refused}");
        }
    }
    for role in ["api", "engine", "migrate"]
        .map(str::to_owned)
        .into_iter()
        .chain(amends_api::services::workers().map(|service| format!("worker {}", service.name)))
    {
        assert!(roles.contains(&role), "there is no service for `amends {role}`: {roles:?}");
    }
}

#[test]
fn every_service_of_ours_runs_without_rights() {
    for (name, service) in ours() {
        assert_eq!(service["user"], "65532:65532", "{name}");
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"][0], "ALL", "{name}");
        assert_eq!(service["security_opt"][0], "no-new-privileges:true", "{name}");
    }
    let image = text("Dockerfile");
    assert!(image.contains("\nUSER 65532:65532\n"), "the image's user");
}

#[test]
fn services_start_in_an_order_that_health_decides() {
    let services = services();
    for (name, service) in &services {
        for (before, needed) in service["depends_on"].as_object().into_iter().flatten() {
            let needs = services.get(before).unwrap_or_else(|| panic!("{name} depends on {before}"));
            let is_checked = needs["healthcheck"]["test"].is_array();
            let condition = if is_checked { "service_healthy" } else { "service_completed_successfully" };
            assert_eq!(needed["condition"], condition, "{name} depends on {before}");
        }
    }
    for (name, service) in ours() {
        let role = words(&service["command"]);
        if ["api", "engine", "worker"].iter().any(|long| role[0] == *long) {
            assert!(service["depends_on"]["migrate"].is_object(), "{name} starts before the migration");
            assert_eq!(
                words(&service["healthcheck"]["test"]),
                ["CMD", "/usr/local/bin/amends", "health"],
                "{name}"
            );
        }
    }
}

#[test]
fn ports_are_published_on_loopback_only() {
    for (name, service) in services() {
        for port in words(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:${"), "{name}: {port}");
        }
    }
}

#[test]
fn the_example_of_env_is_what_compose_takes_with_its_defaults() {
    let example: BTreeMap<_, _> = text(".env.example")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split_once('=').unwrap_or_else(|| panic!("{line}")))
        .map(|(name, value)| (name.to_owned(), BTreeSet::from([value.to_owned()])))
        .collect();
    assert_eq!(example, variables(&text(COMPOSE)), ".env.example and docker-compose.yml");
    let settings: BTreeMap<_, _> =
        defaults().into_iter().map(|setting| (variable(&setting.key), setting)).collect();
    for (name, value) in example.iter().filter(|(name, _)| name.starts_with("AMENDS_")) {
        let setting = settings.get(name).unwrap_or_else(|| panic!("{name} is no setting"));
        if setting.is_set {
            assert_eq!(value.first().unwrap(), setting.default.trim_matches('"'), "{name}");
        }
    }
}

#[test]
fn files_that_services_mount_exist() {
    for (name, service) in services() {
        for volume in words(&service["volumes"]) {
            let from = volume.split(':').next().unwrap();
            if let Some(file) = from.strip_prefix("./") {
                assert!(support::path(file).is_file(), "{name}: {volume}");
            }
        }
    }
}
