//! The catalog of metrics against the sources, docs/METRICS.md, the dashboard, the alerts and docs/OPERATING.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use amends_api::{
    services,
    telemetry::catalog::{LabelValues, METRICS},
};
use serde_json::Value;

use super::support::{documents, kept, path, text};

/// The tests of the alerts.
const ALERT_TESTS: &str = "charts/tests/alerts.yaml";
/// The page with all metrics.
const PAGE: &str = "docs/METRICS.md";
const ALERTS: &str = "charts/amends/files/alerts.yaml";
const DASHBOARD: &str = "charts/amends/files/dashboard.json";

/// Returns the kind of each metric that a source records: `counter`, `gauge` or `histogram`.
fn recorded() -> BTreeMap<String, &'static str> {
    let mut found = BTreeMap::new();
    for folder in ["engine", "adapters", "api/src", "workflows"] {
        sources(&path(folder), &mut |source| {
            for kind in ["counter", "gauge", "histogram"] {
                for part in source.split(&format!("{kind}!(\"")).skip(1) {
                    let name = part.split('"').next().unwrap();
                    found.insert(name.to_owned(), kind);
                }
            }
        });
    }
    assert!(found.len() > 30, "{found:?}");
    found
}

fn sources(folder: &Path, take: &mut impl FnMut(&str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("tests") && !path.ends_with("target") {
            sources(&path, take);
        } else if path.extension().is_some_and(|end| end == "rs") {
            take(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// Returns the words of a text that begin like our metrics.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words.filter(|word| word.starts_with("amends_") && !word.contains(':')).map(str::to_owned).collect()
}

/// Returns the metric that a series belongs to, if there is one.
fn metric<'a>(series: &'a str, recorded: &BTreeMap<String, &str>) -> Option<&'a str> {
    let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| series.strip_suffix(end));
    match (recorded.get(series), of_histogram.and_then(|name| recorded.get(name))) {
        (Some(&"counter" | &"gauge"), _) => Some(series),
        (_, Some(&"histogram")) => of_histogram,
        _ => None,
    }
}

fn check(file: &str, expressions: &[String]) {
    let recorded = recorded();
    let mut used = BTreeSet::new();
    for expression in expressions {
        for series in names(expression) {
            let metric = metric(&series, &recorded);
            assert!(metric.is_some(), "{file}: no role exposes {series}: {expression}");
            used.insert(metric.map(str::to_owned));
        }
        for (function, wants) in [("rate(", "counter"), ("increase(", "counter"), ("delta(", "gauge")] {
            for inside in expression.split(function).skip(1) {
                let series = names(inside.split([')', '[']).next().unwrap());
                for kind in series.iter().filter_map(|series| recorded.get(series.as_str())) {
                    assert_eq!(*kind, wants, "{file}: {function}…) of a {kind}: {expression}");
                }
            }
        }
    }
    assert!(used.len() > 8, "{file}: {used:?}");
}

/// Returns every text under one of these keys.
fn under(value: &Value, keys: &[&str]) -> Vec<String> {
    match value {
        Value::Object(entries) => entries
            .iter()
            .flat_map(|(key, value)| match value.as_str() {
                Some(text) if keys.contains(&key.as_str()) => vec![text.to_owned()],
                _ => under(value, keys),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(|item| under(item, keys)).collect(),
        _ => Vec::new(),
    }
}

/// Returns the anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn the_catalog_has_every_metric_that_a_source_records_and_no_other() {
    let recorded = recorded();
    let catalog: BTreeMap<String, &str> =
        METRICS.iter().map(|metric| (metric.name.to_owned(), metric.kind.as_str())).collect();
    assert_eq!(recorded, catalog);
}

#[test]
fn the_page_of_metrics_has_every_metric() {
    let page = text(PAGE);
    let begin = "| metric | kind | recorded by | labels | what it is |\n";
    let head = &page[..page.find(begin).unwrap_or(page.len())];
    let mut generated = format!("{head}{begin}| --- | --- | --- | --- | --- |\n");
    for metric in METRICS {
        let label = |(key, values): &(&str, _)| format!("`{key}`: {}", words(values));
        let labels = metric.labels.iter().map(label).collect::<Vec<_>>().join("; ");
        let labels = if labels.is_empty() { "–".to_owned() } else { labels };
        let (name, kind, by, help) = (metric.name, metric.kind.as_str(), metric.by.describe(), metric.help);
        generated.push_str(&format!("| `{name}` | {kind} | {by} | {labels} | {help} |\n"));
    }
    kept(PAGE, &page, &generated);
}

fn words(values: &LabelValues) -> String {
    values.describe()
}

#[test]
fn every_alert_is_tested_by_promtool() {
    let tested = under(&documents(ALERT_TESTS)[0], &["alertname"]);
    let alerts = under(&documents(ALERTS)[0], &["alert"]);
    for alert in alerts {
        assert!(tested.contains(&alert), "{ALERT_TESTS} has no test of {alert}");
    }
}

#[test]
fn alerts_name_metrics_that_a_role_exposes() {
    check(ALERTS, &under(&documents(ALERTS)[0], &["expr"]));
}

#[test]
fn the_alert_of_absent_roles_names_every_role_of_the_registry() {
    let expressions = under(&documents(ALERTS)[0], &["expr"]);
    let absent = expressions.iter().find(|expression| expression.contains("absent(up{role=")).unwrap();
    let roles: BTreeSet<_> = ["api"].into_iter().chain(services::names()).collect();
    let (_, rest) = absent.split_once("role=~\"").unwrap();
    let counted: BTreeSet<_> = rest.split('"').next().unwrap().split('|').collect();
    let missed = absent.split("absent(up{role=\"").skip(1).map(|part| part.split('"').next().unwrap());
    assert_eq!((counted, missed.collect::<BTreeSet<_>>()), (roles.clone(), roles));
}

#[test]
fn the_dashboard_names_metrics_that_a_role_exposes() {
    let dashboard: Value = serde_json::from_str(&text(DASHBOARD)).unwrap();
    check(DASHBOARD, &under(&dashboard, &["expr", "query"]));
}

#[test]
fn the_operators_page_names_metrics_that_a_role_exposes() {
    let recorded = recorded();
    let page = text("docs/OPERATING.md");
    // Of the code of the page: databases are called like metrics.
    for code in page.split('`').skip(1).step_by(2) {
        for name in names(code).into_iter().filter(|name| name.matches('_').count() > 1) {
            assert!(
                metric(&name, &recorded).is_some() || recorded.contains_key(&name),
                "no role exposes {name}"
            );
        }
    }
}

#[test]
fn every_alert_says_what_it_means_and_where_to_read_on() {
    let page = text("docs/OPERATING.md");
    let anchors: BTreeSet<_> = page
        .lines()
        .filter_map(|line| Some(anchor(line.strip_prefix('#')?.trim_start_matches('#').trim())))
        .collect();
    let rules = documents(ALERTS).remove(0);
    let rules: Vec<_> = rules["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    let alerts: Vec<_> = rules.iter().filter(|rule| rule["alert"].is_string()).collect();
    assert!(alerts.len() > 10);
    for alert in alerts {
        let name = &alert["alert"];
        assert!(
            ["page", "ticket"].contains(&alert["labels"]["severity"].as_str().unwrap_or_default()),
            "{name}"
        );
        for text in ["summary", "description", "runbook"] {
            assert!(alert["annotations"][text].is_string(), "{name} has no {text}");
        }
        let runbook = alert["annotations"]["runbook"].as_str().unwrap();
        let anchor =
            runbook.strip_prefix("docs/OPERATING.md#").unwrap_or_else(|| panic!("{name}: {runbook}"));
        assert!(anchors.contains(anchor), "{name}: there is no {runbook}");
    }
}
