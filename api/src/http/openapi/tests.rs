//! The document is whole, and the committed one is what the routes say.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
};

use amends_http::problem_types;
use serde_json::Value;

use super::document::problems;
use crate::routes::{DOCUMENT, listed};

fn document() -> Value {
    serde_json::to_value(&*DOCUMENT).unwrap()
}

/// Calls `each` with every value in the document.
fn walk(value: &Value, each: &mut impl FnMut(&Value)) {
    each(value);
    match value {
        Value::Object(fields) => fields.values().for_each(|value| walk(value, each)),
        Value::Array(items) => items.iter().for_each(|value| walk(value, each)),
        _ => {}
    }
}

#[test]
fn the_committed_document_is_what_the_routes_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let present = DOCUMENT.to_pretty_json().unwrap() + "\n";
    if env::var_os("UPDATE_OPENAPI").is_some() {
        fs::write(&path, &present).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == present,
        "api/openapi.json is not what the routes say; write it anew: UPDATE_OPENAPI=1 cargo test -p amends-api --lib openapi"
    );
}

#[test]
fn every_route_stands_in_the_document_under_an_id_of_its_own() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for route in listed() {
        let path = super::path::documented(route.path);
        let operation = &document["paths"][&path][route.method.as_str().to_ascii_lowercase()];
        assert_eq!(operation["operationId"], route.operation.id(), "{} {path}", route.method);
        assert!(ids.insert(route.operation.id()), "{} twice", route.operation.id());
        let answers = operation["responses"].as_object().unwrap();
        assert!(answers.keys().any(|status| status < &"400".to_owned()), "{path} never answers");
    }
}

#[test]
fn every_reference_and_every_link_leads_somewhere() {
    let document = document();
    let ids: BTreeSet<_> = listed().iter().map(|route| route.operation.id()).collect();
    let mut number = 0;
    walk(&document, &mut |value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
            number += 1;
        }
        for (name, link) in value.get("links").and_then(Value::as_object).into_iter().flatten() {
            assert!(ids.contains(link["operationId"].as_str().unwrap()), "{name}");
        }
    });
    assert!(number > 100, "{number} references");
}

#[test]
fn no_two_types_have_one_name() {
    let mut named = BTreeMap::new();
    for (name, schema) in listed().into_iter().flat_map(|route| route.operation.schemas) {
        let schema = serde_json::to_value(&schema).unwrap();
        let first = named.entry(name.clone()).or_insert_with(|| schema.clone());
        assert_eq!(*first, schema, "{name}");
    }
}

#[test]
fn every_type_of_problem_stands_with_a_route_but_those_of_other_methods_and_of_the_services_own_ports() {
    let told: BTreeSet<_> = listed()
        .iter()
        .flat_map(|route| problems(route).into_values().flatten())
        .map(|kind| kind.slug())
        .collect();
    let all: BTreeSet<_> = problem_types::ALL.iter().map(|kind| kind.slug()).collect();
    let untold: Vec<_> = all.difference(&told).collect();
    let elsewhere = [problem_types::METHOD_NOT_ALLOWED, problem_types::SERVICE_TOKEN].map(|kind| kind.slug());
    assert_eq!(untold, elsewhere.iter().collect::<Vec<_>>());
}
