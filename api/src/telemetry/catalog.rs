//! The catalog of metrics: name, kind, help, and the values that each label may have. Whatever a role records is in it; tests
//! compare it with the sources, with docs/METRICS.md, and with what a deployment exposes.
//!
//! At the start of a role its counters and histograms exist with every combination of their labels, at zero: `increase`
//! does not see the first increment of a counter that has not existed before.

mod api;
mod engine;
mod process;
mod values;
mod workers;

use crate::{routes, services};

/// Every metric, by what it is about.
pub static METRICS: &[Metric] = &joined::<{ count(&SUBJECTS) }>(&SUBJECTS);

const SUBJECTS: [&[Metric]; 4] = [engine::METRICS, api::METRICS, workers::METRICS, process::METRICS];

const fn count(subjects: &[&[Metric]]) -> usize {
    let (mut count, mut subject) = (0, 0);
    while subject < subjects.len() {
        count += subjects[subject].len();
        subject += 1;
    }
    count
}

/// Joins slices at compile time, where there are no iterators.
const fn joined<const N: usize>(subjects: &[&[Metric]]) -> [Metric; N] {
    let mut all = [subjects[0][0]; N];
    let (mut at, mut subject) = (0, 0);
    while subject < subjects.len() {
        let mut metric = 0;
        while metric < subjects[subject].len() {
            all[at] = subjects[subject][metric];
            at += 1;
            metric += 1;
        }
        subject += 1;
    }
    all
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name. The end is its unit: `_total` counts, `_seconds`, `_bytes`, `_messages`.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// What it is, in one sentence.
    pub help: &'static str,
    /// Which roles record it.
    pub by: RecordedBy,
    /// The keys of its labels, with their values.
    pub labels: Labels,
}

/// The labels of a metric: keys, with their values.
type Labels = &'static [(&'static str, LabelValues)];

const fn counter(name: &'static str, by: RecordedBy, labels: Labels, help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Counter, help, by, labels }
}

const fn gauge(name: &'static str, by: RecordedBy, labels: Labels, help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Gauge, help, by, labels }
}

const fn histogram(name: &'static str, by: RecordedBy, labels: Labels, help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Histogram, help, by, labels }
}

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only rises. It begins at zero.
    Counter,
    /// It exists once it has been measured.
    Gauge,
    /// It begins without observations.
    Histogram,
}

impl MetricKind {
    /// Returns Prometheus' word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Which roles record a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordedBy {
    /// Every role.
    Every,
    /// The api and the engine: both decide about sagas.
    Deciders,
    /// Every role except the api: those that read topics and keep their database in order.
    Readers,
    /// Workers that execute commands.
    Executors,
    /// This role.
    Role(&'static str),
}

impl RecordedBy {
    /// Returns whether this role records it.
    pub fn is(self, role: &str) -> bool {
        match self {
            Self::Every => true,
            Self::Deciders => ["api", "engine"].contains(&role),
            Self::Readers => role != "api",
            Self::Executors => services::participants().any(|service| service.name == role),
            Self::Role(name) => name == role,
        }
    }

    /// Returns the roles in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Every => "every role",
            Self::Deciders => "api, engine",
            Self::Readers => "engine, workers",
            Self::Executors => "workers that execute commands",
            Self::Role(name) => name,
        }
    }
}

/// The values that a label may have. There is no other kind: nothing of a request, an order or a message is a label.
#[derive(Debug, Clone, Copy)]
pub enum LabelValues {
    /// Each of these, from the start.
    Each(fn() -> Vec<String>),
    /// The name of the process's worker (of `amends dev`: of each).
    OwnWorker,
    /// Those of these that the role and its settings need.
    SomeOf(fn() -> Vec<String>),
    /// Codes of ISO 4217, of those currencies in which something is held.
    Currencies,
    /// Paths of the api's routes as the router knows them, of those that are asked.
    Routes,
}

impl LabelValues {
    /// Returns whether it may have this value.
    pub fn allow(self, value: &str) -> bool {
        match self {
            Self::Each(values) | Self::SomeOf(values) => values().iter().any(|allowed| allowed == value),
            Self::OwnWorker => services::find_worker(value).is_some(),
            Self::Currencies => iso_currency::Currency::from_code(value).is_some(),
            Self::Routes => routes::listed().iter().any(|route| route.path == value),
        }
    }

    /// Returns the values that exist from the start in a process with these roles; `None` if that is not known before.
    fn first(self, roles: &[&'static str]) -> Option<Vec<String>> {
        match self {
            Self::Each(values) => Some(values()),
            Self::OwnWorker => {
                let workers = roles.iter().filter(|role| services::find_worker(role).is_some());
                Some(workers.map(|role| (*role).to_owned()).collect())
            }
            Self::SomeOf(_) | Self::Currencies | Self::Routes => None,
        }
    }

    /// Returns the values in words.
    pub fn describe(self) -> String {
        match self {
            Self::Each(values) | Self::SomeOf(values) => {
                values().iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
            }
            Self::OwnWorker => "the worker's name".to_owned(),
            Self::Currencies => "an ISO 4217 code".to_owned(),
            Self::Routes => "a path of the OpenAPI document".to_owned(),
        }
    }
}

/// Describes the metrics of these roles, and lets their counters and histograms begin at zero.
pub fn begin(roles: &[&'static str]) {
    for metric in METRICS.iter().filter(|metric| roles.iter().any(|role| metric.by.is(role))) {
        let Metric { name, help, .. } = *metric;
        match metric.kind {
            MetricKind::Counter => metrics::describe_counter!(name, help),
            MetricKind::Gauge => metrics::describe_gauge!(name, help),
            MetricKind::Histogram => metrics::describe_histogram!(name, help),
        }
        for labels in first_labels(metric, roles) {
            match metric.kind {
                MetricKind::Counter => metrics::counter!(name, &labels).increment(0),
                MetricKind::Histogram => drop(metrics::histogram!(name, &labels)),
                MetricKind::Gauge => {}
            }
        }
    }
}

/// Returns every combination of a metric's labels that exists from the start.
pub fn first_labels(metric: &Metric, roles: &[&'static str]) -> Vec<Vec<(&'static str, String)>> {
    // A worker's name is a label of what this worker records.
    let own: Vec<&'static str> = roles.iter().copied().filter(|role| metric.by.is(role)).collect();
    let mut combinations = vec![Vec::new()];
    for (key, values) in metric.labels {
        let Some(values) = values.first(&own) else { return Vec::new() };
        let with = |labels: &Vec<_>| {
            let labels = labels.clone();
            values.clone().into_iter().map(move |value| [labels.clone(), vec![(*key, value)]].concat())
        };
        combinations = combinations.iter().flat_map(with).collect();
    }
    combinations
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_say_their_unit_and_each_is_there_once() {
        let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for Metric { name, kind, help, .. } in METRICS {
            assert!(name.starts_with("amends_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
            let has_unit = name.ends_with("_seconds") || name.ends_with("_size");
            assert!(has_unit || *kind != MetricKind::Histogram, "{name}");
            assert!(help.ends_with('.') && help.len() > 15, "{name}: {help}");
        }
    }

    #[test]
    fn a_counter_begins_with_every_combination_of_its_labels() {
        let metric = METRICS.iter().find(|metric| metric.name == "amends_worker_commands_total").unwrap();
        let first = first_labels(metric, &["payment"]);
        assert_eq!(first.len(), 4 * 10, "kinds × outcomes");
        let labels = [("worker", "payment"), ("kind", "probe"), ("outcome", "not_seen")];
        assert!(first.contains(&labels.map(|(key, value)| (key, value.to_owned())).to_vec()));
        assert_eq!(first_labels(metric, &["payment", "notification", "api"]).len(), 40);
    }

    #[test]
    fn a_role_has_a_bounded_number_of_series_from_the_start() {
        for role in ["api"].into_iter().chain(services::names()) {
            let of_role = METRICS.iter().filter(|metric| metric.by.is(role));
            let series: usize = of_role.map(|metric| first_labels(metric, &[role]).len()).sum();
            assert!((5..400).contains(&series), "{role}: {series}");
        }
    }
}
