//! What the chart renders (charts/snapshots), and the plain manifests (charts/manifests). `make charts` compares both with
//! the chart itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use amends_api::services;
use serde_json::Value;

use super::support::{self, Container, documents};

/// Objects that are deployed together.
struct Release {
    name: String,
    objects: Vec<Value>,
}

fn releases() -> Vec<Release> {
    let files = |folder: &str| {
        let entries = fs::read_dir(support::path(folder)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap()))
            .collect();
        names.sort();
        names
    };
    let snapshots = files("charts/snapshots");
    assert_eq!(snapshots.len(), 8, "{snapshots:?}");
    let mut releases: Vec<_> =
        snapshots.into_iter().map(|name| Release { objects: documents(&name), name }).collect();
    let plain = files("charts/manifests").into_iter().filter(|name| !name.ends_with("/values.yaml"));
    let objects = plain.flat_map(|name| documents(&name)).collect();
    releases.push(Release { name: "charts/manifests".to_owned(), objects });
    releases
}

impl Release {
    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// Returns the pods of every Deployment, Job and test, each with the name of its object.
    fn pods(&self) -> Vec<(String, &Value)> {
        let named = |object: &Value| format!("{} {}", self.name, object["metadata"]["name"]);
        let templates = ["Deployment", "Job"].into_iter().flat_map(|kind| self.of_kind(kind));
        let templates = templates.map(|object| (named(object), &object["spec"]["template"]));
        templates.chain(self.of_kind("Pod").map(|pod| (named(pod), pod))).collect()
    }

    fn config(&self, file: &str) -> Option<String> {
        let texts = self.of_kind("ConfigMap").filter_map(|map| map["data"][file].as_str());
        texts.map(str::to_owned).next()
    }
}

fn list<'a>(value: &'a Value, what: &str) -> &'a Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("{what} is no list: {value}"))
}

#[test]
fn what_values_set_is_what_every_role_reads() {
    for release in releases().iter().filter(|release| release.name.contains("everything-")) {
        let environment = if release.name.contains("-prod") { "prod" } else { "dev" };
        let values = documents(&format!("charts/amends/values-{environment}.yaml")).remove(0);
        let set = values["settings"].as_object().unwrap();
        for role in ["api"].into_iter().chain(services::names()) {
            let config = release.config(&format!("{role}.toml")).unwrap();
            for (key, value) in set {
                let line = format!("{key} = {value}");
                assert!(
                    config.lines().any(|read| read == line),
                    "{environment}, {role}: no {line} in\n{config}"
                );
            }
        }
        assert!(set.len() > 3, "{environment}");
    }
}

#[test]
fn the_program_accepts_every_containers_command_and_settings() {
    let mut checked = 0;
    for release in releases() {
        for (name, pod) in release.pods() {
            for container in list(&pod["spec"]["containers"], "containers") {
                let mut given = Container {
                    args: list(&container["args"], "args")
                        .iter()
                        .map(|arg| arg.as_str().unwrap().to_owned())
                        .collect(),
                    ..Container::default()
                };
                for variable in container["env"].as_array().into_iter().flatten() {
                    let name = variable["name"].as_str().unwrap().to_owned();
                    // A Secret's keys are called like the variables.
                    let secret = &variable["valueFrom"]["secretKeyRef"]["key"];
                    let value = match variable["value"].as_str() {
                        Some(value) => value.to_owned(),
                        None => {
                            assert_eq!(secret, name.as_str());
                            secret_value(&name)
                        }
                    };
                    if name == "AMENDS_CONFIG" {
                        let file = value.strip_prefix("/etc/amends/").unwrap();
                        given.file = Some(release.config(file).unwrap_or_else(|| panic!("no {file}")));
                    }
                    given.env.insert(name, value);
                }
                if let Err(refused) = given.check() {
                    panic!("{name}: {refused}");
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "{checked}");
}

/// Returns what a Secret may hold: a token, a password, or the URL of a database.
fn secret_value(variable: &str) -> String {
    if ["AMENDS_SERVICE_TOKEN", "AMENDS_KAFKA_SASL_PASSWORD"].contains(&variable) {
        return "the-role-s-own-secret".to_owned();
    }
    if variable == "AMENDS_WEBHOOK_KEY" {
        return "5a".repeat(32);
    }
    let service = variable.strip_prefix("AMENDS_").and_then(|rest| rest.strip_suffix("_DATABASE_URL"));
    let user =
        service.map_or_else(|| "postgres".to_owned(), |name| format!("amends_{}", name.to_lowercase()));
    format!("postgres://{user}:x@db:5432/{user}")
}

#[test]
fn everything_is_every_role_of_the_registry() {
    let workers = services::workers().map(|service| service.name);
    let roles: BTreeSet<_> = ["api", "engine"].into_iter().chain(workers).map(str::to_owned).collect();
    let everything = |release: &Release| {
        !["/api-", "/engine-", "/workers-"].iter().any(|part| release.name.contains(part))
    };
    let complete: Vec<_> = releases().into_iter().filter(everything).collect();
    assert_eq!(complete.len(), 3);
    for release in complete {
        let components =
            release.of_kind("Deployment").map(|d| &d["metadata"]["labels"]["app.kubernetes.io/component"]);
        let deployed: BTreeSet<_> = components.map(|name| name.as_str().unwrap().to_owned()).collect();
        assert_eq!(deployed, roles, "{}", release.name);
    }
}

#[test]
fn every_database_of_the_registry_is_migrated_and_what_serves_requests_has_the_service_token() {
    let variables = |object: &Value| -> BTreeSet<String> {
        let containers = list(&object["spec"]["template"]["spec"]["containers"], "containers").iter();
        let variables = containers.flat_map(|container| container["env"].as_array().into_iter().flatten());
        variables.map(|variable| variable["name"].as_str().unwrap().to_owned()).collect()
    };
    let serving: BTreeSet<_> =
        ["api"].into_iter().chain(services::listening().map(|service| service.name)).collect();
    for release in releases().iter().filter(|release| release.name.contains("everything-")) {
        let migrated: BTreeSet<_> = release.of_kind("Job").flat_map(variables).collect();
        for service in services::names() {
            let url = format!("AMENDS_{}_DATABASE_URL", service.to_uppercase());
            assert!(migrated.contains(&url), "{}: no {url} in {migrated:?}", release.name);
        }
        let with_token =
            release.of_kind("Deployment").filter(|role| variables(role).contains("AMENDS_SERVICE_TOKEN"));
        let with_token = with_token.map(|role| &role["metadata"]["labels"]["app.kubernetes.io/component"]);
        let with_token: BTreeSet<_> = with_token.map(|name| name.as_str().unwrap()).collect();
        assert_eq!(with_token, serving, "{}", release.name);
    }
}

#[test]
fn every_pod_runs_without_rights_and_without_variables_of_other_services() {
    for release in releases() {
        for (name, pod) in release.pods() {
            let spec = &pod["spec"];
            // A Service `amends-api` would become the unknown setting AMENDS_API_PORT.
            assert_eq!(spec["enableServiceLinks"], false, "{name}");
            assert_eq!(spec["automountServiceAccountToken"], false, "{name}");
            assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
            for container in list(&spec["containers"], "containers") {
                let security = &container["securityContext"];
                assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(security["capabilities"]["drop"][0], "ALL", "{name}");
                for wanted in ["/requests/cpu", "/requests/memory", "/limits/memory"] {
                    assert!(container["resources"].pointer(wanted).is_some(), "{name}: {wanted}");
                }
            }
        }
    }
}

#[test]
fn every_role_is_probed_and_has_time_to_stop() {
    for release in releases() {
        for deployment in release.of_kind("Deployment") {
            let (name, spec) = (&deployment["metadata"]["name"], &deployment["spec"]["template"]["spec"]);
            let container = &spec["containers"][0];
            for (probe, path) in [("startup", "live"), ("liveness", "live"), ("readiness", "ready")] {
                let probe = &container[format!("{probe}Probe")];
                let by_http = probe["httpGet"]["path"] == format!("/health/{path}");
                let by_program = probe["exec"]["command"][1] == "health"
                    && (probe["exec"]["command"][2] == "--live") == (path == "live");
                assert!(by_http || by_program, "{name}: {probe}");
            }
            let seconds = |value: &Value| value.as_i64().unwrap();
            let drain = seconds(&container["lifecycle"]["preStop"]["sleep"]["seconds"]);
            // The program stops within 10 s.
            assert!(seconds(&spec["terminationGracePeriodSeconds"]) >= drain + 10, "{name}");
        }
    }
}

#[test]
fn selectors_select_the_pods_of_one_role() {
    let labels = |value: &Value| -> BTreeMap<String, String> {
        let entries = value.as_object().expect("labels").iter();
        entries.map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())).collect()
    };
    for release in releases() {
        let pods: Vec<_> = release
            .pods()
            .into_iter()
            .map(|(name, pod)| (name, labels(&pod["metadata"]["labels"])))
            .collect();
        let selected = |selector: &Value| {
            let selector = labels(selector);
            pods.iter()
                .filter(|(_, pod)| selector.iter().all(|(key, value)| pod.get(key) == Some(value)))
                .count()
        };
        for (kind, place) in [
            ("Deployment", "/spec/selector/matchLabels"),
            ("Service", "/spec/selector"),
            ("PodDisruptionBudget", "/spec/selector/matchLabels"),
            ("NetworkPolicy", "/spec/podSelector/matchLabels"),
        ] {
            for object in release.of_kind(kind) {
                let selector = object.pointer(place).unwrap_or_else(|| panic!("{kind} without {place}"));
                assert_eq!(selected(selector), 1, "{} {kind} {}", release.name, object["metadata"]["name"]);
            }
        }
        for scaled in
            ["HorizontalPodAutoscaler", "ScaledObject"].into_iter().flat_map(|kind| release.of_kind(kind))
        {
            let target = &scaled["spec"]["scaleTargetRef"]["name"];
            let found = release.of_kind("Deployment").filter(|d| &d["metadata"]["name"] == target);
            assert_eq!(found.count(), 1, "{target}");
        }
    }
}

#[test]
fn a_role_that_is_scaled_has_no_number_of_replicas_that_an_upgrade_would_set_back() {
    let mut scaled = 0;
    for release in releases() {
        for deployment in release.of_kind("Deployment") {
            let name = &deployment["metadata"]["name"];
            let is_scaled = ["HorizontalPodAutoscaler", "ScaledObject"]
                .into_iter()
                .flat_map(|kind| release.of_kind(kind))
                .any(|scaler| &scaler["spec"]["scaleTargetRef"]["name"] == name);
            assert_ne!(is_scaled, deployment["spec"]["replicas"].is_number(), "{} {name}", release.name);
            scaled += usize::from(is_scaled);
        }
    }
    assert!(scaled > 0);
}
