//! What a role exposes at `/metrics`.

use std::collections::BTreeMap;

/// A metric as a role exposes it.
#[derive(Debug, Default)]
pub struct Exposed {
    pub kind: String,
    pub help: String,
    pub series: Vec<Series>,
}

/// A line of a metric: of a histogram its count, without its buckets.
#[derive(Debug)]
pub struct Series {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// Reads Prometheus' text format.
pub fn parse(text: &str) -> BTreeMap<String, Exposed> {
    let mut metrics = BTreeMap::<String, Exposed>::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help.clone_into(&mut metrics.entry(name.to_owned()).or_default().help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            kind.clone_into(&mut metrics.entry(name.to_owned()).or_default().kind);
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let of_histogram = name.strip_suffix("_count").filter(|name| metrics.contains_key(*name));
            let name = of_histogram.unwrap_or(name);
            // The buckets and the sum of a histogram are no metrics of their own.
            if let Some(metric) = metrics.get_mut(name) {
                let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
                metric.series.push(Series { labels: labels_of(labels), value });
            }
        }
    }
    metrics
}

fn labels_of(text: &str) -> BTreeMap<String, String> {
    let pairs = text.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty());
    let split = |pair: &str| {
        let (key, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("{text}"));
        (key.to_owned(), value.trim_end_matches('"').to_owned())
    };
    pairs.map(split).collect()
}

impl Exposed {
    /// Returns the sum over the series that have these labels.
    pub fn sum(&self, labels: &[(&str, &str)]) -> f64 {
        let has = |series: &&Series| {
            labels.iter().all(|(key, value)| series.labels.get(*key).is_some_and(|found| found == value))
        };
        self.series.iter().filter(has).map(|series| series.value).sum()
    }
}
