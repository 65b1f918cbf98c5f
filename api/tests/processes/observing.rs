//! Metrics and logs of a whole deployment, in which orders succeed and fail in every way.

use std::{collections::BTreeMap, fs, sync::atomic::AtomicUsize};

use amends_api::telemetry::catalog::{METRICS, MetricKind, first_labels};
use amends_proof::{campaign::broker::Broker as Admin, deployment::ROLES};
use amends_testkit::eventually;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::support::{
    LONG, Process, Stack,
    client::order,
    clients,
    exposition::{self, Exposed},
    load,
    prometheus::Prometheus,
};

/// Gauges that exist only in some deployments: with an issuer of tokens.
const NOT_HERE: [&str; 1] = ["amends_auth_keys"];
/// A role exposes fewer lines than this, whatever happens.
const LINES_MOST: usize = 3_000;
/// Lines that a saga may cost at the default level, on average, in a deployment in which one in four fails.
const LINES_A_SAGA: f64 = 0.2;
/// The same in bytes.
const BYTES_A_SAGA: f64 = 40.0;

/// The role that logs as JSON.
const JSON_LOGS: &str = "engine";

/// A whole deployment, each role with its own log.
struct Deployment {
    stack: Stack,
    roles: Vec<(Process, &'static str)>,
    logs: tempfile::TempDir,
}

impl Deployment {
    async fn start() -> Self {
        let mut stack = Stack::embedded().await;
        stack.set("AMENDS_LOG", "info").set("AMENDS_UNKNOWN_PATIENCE", "1s");
        let logs = tempfile::tempdir().unwrap();
        let mut roles = Vec::new();
        for role in ROLES.iter() {
            let name = *role.last().unwrap();
            stack.set("AMENDS_LOG_FORMAT", if name == JSON_LOGS { "json" } else { "text" });
            let log = fs::File::create(logs.path().join(name)).unwrap();
            roles.push((stack.start_with_log(role, &log).await, name));
        }
        load::stock(&stack).await;
        Self { stack, roles, logs }
    }

    /// Returns what a role exposes, and its text.
    async fn exposed(process: &Process) -> (BTreeMap<String, Exposed>, String) {
        let (status, text) = process.client().try_get_text("/metrics").await.unwrap();
        assert_eq!(status, 200, "{text}");
        (exposition::parse(&text), text)
    }

    /// Returns the size of all logs, in lines and bytes. How slow the machine is does not count.
    fn logged(&self) -> (usize, usize) {
        let texts =
            self.roles.iter().map(|(_, name)| fs::read_to_string(self.logs.path().join(name)).unwrap());
        texts.fold((0, 0), |sum, text| {
            let lines = text.lines().filter(|line| !line.contains("slow"));
            lines.fold(sum, |(lines, bytes), line| (lines + 1, bytes + line.len() + 1))
        })
    }

    async fn sagas(&self, which: &'static str) -> i64 {
        let sql = format!("SELECT count(*) FROM sagas {which}");
        let counted = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(self.stack.pool("engine")).await;
        counted.unwrap()
    }

    /// Orders of every outcome, one that parks, and messages, requests and a webhook that fail.
    async fn live(&self) {
        let processes: Vec<&Process> = self.roles.iter().map(|(process, _)| process).collect();
        let api = clients(processes);
        let webhook = json!({ "url": "http://127.0.0.1:9/hook", "types": ["order.*"] });
        let (status, answer) = api[0].post("/api/webhooks", &webhook).await;
        assert_eq!(status, 201, "{answer}");
        load::place_all(&api, 60, &AtomicUsize::new(0)).await;
        let parked = api[0].place(&order("mug", 1, "card_approved", "BV")).await;
        let broker = Admin::new(self.stack.broker.bootstrap_servers().parse().unwrap()).unwrap();
        for topic in ["saga.replies", "payment.commands", "shipment.commands", "order.created"] {
            broker.produce(topic, b"not json").await.unwrap();
        }
        for (path, expected) in
            [("/api/orders/unknown", 400), ("/api/orders?limit=0", 400), ("/nowhere", 404)]
        {
            assert_eq!(api[0].try_get(path).await.unwrap().0, expected, "{path}");
        }
        eventually("the order is parked", LONG, || async {
            let (_, listed) = api[0].try_get("/admin/sagas?state=parked").await?;
            (listed["items"][0]["businessKey"] == json!(parked)).then_some(())
        })
        .await;
        // The carrier's worker goes on asking about the parked order.
        eventually("no saga has anything to do", LONG, || async {
            (self.sagas("WHERE live").await == 0).then_some(())
        })
        .await;
    }
}

/// Checks that a role exposes nothing that the catalog does not have, and no label's value that it does not allow.
fn check(name: &'static str, exposed: &BTreeMap<String, Exposed>, text: &str) {
    assert!(text.lines().count() < LINES_MOST, "{name}: {} lines", text.lines().count());
    for (metric_name, exposed) in exposed {
        let metric = METRICS.iter().find(|metric| metric.name == metric_name);
        let metric = metric.unwrap_or_else(|| panic!("{name} exposes {metric_name}, which is in no catalog"));
        assert!(metric.by.is(name), "{name} exposes {metric_name}");
        assert_eq!(
            (exposed.kind.as_str(), exposed.help.as_str()),
            (metric.kind.as_str(), metric.help),
            "{metric_name}"
        );
        for series in &exposed.series {
            let keys: Vec<_> = series.labels.keys().map(String::as_str).collect();
            let mut known: Vec<_> = metric.labels.iter().map(|(key, _)| *key).collect();
            known.sort_unstable();
            assert_eq!(keys, known, "{name}: {metric_name}");
            for (key, values) in metric.labels {
                let value = &series.labels[*key];
                assert!(values.allow(value), "{name}: {metric_name} has {key}={value:?}");
            }
        }
    }
}

/// Checks that counters and histograms are there before anything has happened.
fn check_begin(name: &'static str, exposed: &BTreeMap<String, Exposed>) {
    for metric in METRICS.iter().filter(|metric| metric.by.is(name) && metric.kind != MetricKind::Gauge) {
        for labels in first_labels(metric, &[name]) {
            let found =
                exposed.get(metric.name).unwrap_or_else(|| panic!("{name} does not expose {}", metric.name));
            let is_there = found
                .series
                .iter()
                .any(|series| labels.iter().all(|(key, value)| series.labels.get(*key) == Some(value)));
            assert!(is_there, "{name}: {} {labels:?} does not exist from the start", metric.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_exists_from_the_start_has_help_and_no_label_without_bound_and_prometheus_reads_them_all()
 {
    let deployment = Deployment::start().await;
    for (process, name) in &deployment.roles {
        let (exposed, text) = Deployment::exposed(process).await;
        check(name, &exposed, &text);
        check_begin(name, &exposed);
    }
    let started = deployment.logged();
    let prometheus =
        Prometheus::watching(deployment.roles.iter().map(|(process, name)| (*name, process.address)));
    deployment.live().await;

    eventually("every gauge is measured, and what has happened is counted", LONG, || async {
        let mut all = BTreeMap::new();
        for (process, name) in &deployment.roles {
            let (exposed, text) = Deployment::exposed(process).await;
            check(name, &exposed, &text);
            all.insert(*name, exposed);
        }
        let of = |name: &str, metric: &str, labels: &[(&str, &str)]| {
            all[name].get(metric).map_or(0.0, |exposed| exposed.sum(labels))
        };
        let missing: Vec<_> = METRICS
            .iter()
            .filter(|metric| !NOT_HERE.contains(&metric.name))
            .filter(|metric| !all.values().any(|of_role| of_role.contains_key(metric.name)))
            .map(|metric| metric.name)
            .collect();
        let parked =
            of("engine", "amends_engine_money_held_minor_units", &[("currency", "EUR"), ("state", "parked")]);
        let counted = missing.is_empty()
            && parked == 1250.0
            && of("engine", "amends_orders_open", &[("status", "PAID")]) == 1.0
            && of("engine", "amends_order_statuses_total", &[("status", "FULFILLED")]) > 20.0
            && of("engine", "amends_engine_answers_total", &[("outcome", "unknown")]) > 0.0
            && of("engine", "amends_engine_commands_total", &[("participant", "payment"), ("sent", "again")])
                > 0.0
            && of("engine", "amends_engine_step_seconds", &[("step", "pay"), ("kind", "execute")]) > 20.0
            && of("engine", "amends_engine_step_seconds", &[("step", "reserve"), ("kind", "compensate")])
                > 0.0
            && of("engine", "amends_database_wal_bytes_total", &[("database", "engine")]) > 10_000.0
            && of("engine", "amends_kafka_lag_messages", &[]) == 0.0
            && of("payment", "amends_worker_dead_letters_total", &[]) == 1.0
            && of("engine", "amends_engine_dead_letters_total", &[]) == 1.0
            && of("engine", "amends_webhook_attempts_total", &[("result", "retried")]) > 0.0;
        if !counted {
            println!("missing {missing:?}, parked {parked}");
        }
        counted.then_some(())
    })
    .await;

    // What a saga costs in the logs.
    let ended = deployment.logged();
    let sagas = deployment.sagas("").await;
    let lines = (ended.0 - started.0) as f64 / sagas as f64;
    let bytes = (ended.1 - started.1) as f64 / sagas as f64;
    println!("{sagas} sagas, {lines:.2} lines and {bytes:.0} bytes each, at the default level");
    assert!(lines <= LINES_A_SAGA && bytes <= BYTES_A_SAGA, "{lines} lines, {bytes} bytes");

    let json = fs::read_to_string(deployment.logs.path().join(JSON_LOGS)).unwrap();
    // The last line may be half written.
    let (whole, _) = json.rsplit_once('\n').expect("it logs");
    for line in whole.lines() {
        let parsed: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(parsed["level"].is_string() && parsed["timestamp"].is_string(), "{line}");
        assert!(parsed["fields"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{line}");
    }

    if let Some(prometheus) = prometheus {
        for (process, _) in &deployment.roles {
            prometheus.lint(&Deployment::exposed(process).await.1);
        }
        prometheus.check(deployment.roles.len()).await;
    }
}
