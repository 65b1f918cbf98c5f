//! A real Prometheus, from Debian's package (`scripts/tools`).

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use amends_testkit::eventually;
use reqwest::Url;
use serde_json::Value;

use super::{LONG, free_address};

/// A Prometheus that scrapes every second. It is killed when dropped.
pub struct Prometheus {
    child: Child,
    programs: PathBuf,
    http: reqwest::Client,
    url: String,
    _data: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the folder of the programs; `None`, with a line that says so, where they are not had.
fn programs() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if std::env::var_os("CI").is_none() && std::env::var_os("AMENDS_TEST_PROMETHEUS").is_none() {
        println!("left out: a real Prometheus runs with CI or AMENDS_TEST_PROMETHEUS set");
        return None;
    }
    let output = Command::new(root.join("scripts/tools")).args(["prometheus", "promtool"]).output().unwrap();
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(std::env::var_os("AMENDS_TEST_PROMETHEUS").is_none(), "{why}");
        println!("left out: a real Prometheus cannot be had here: {why}");
        return None;
    }
    Some(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()))
}

impl Prometheus {
    /// Starts it with the alerts of the chart. Each role has its name as label, as the chart's ServiceMonitor gives it.
    pub fn watching<'a>(roles: impl Iterator<Item = (&'a str, SocketAddr)>) -> Option<Self> {
        let programs = programs()?;
        let data = tempfile::tempdir().unwrap();
        let alerts = fs::canonicalize(root().join("charts/amends/files/alerts.yaml")).unwrap();
        let mut config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\n\
             scrape_configs:\n  - job_name: amends\n    static_configs:\n",
            alerts.display()
        );
        for (role, address) in roles {
            writeln!(config, "      - {{targets: ['{address}'], labels: {{role: {role}}}}}").unwrap();
        }
        let file = data.path().join("prometheus.yaml");
        fs::write(&file, &config).unwrap();
        let address = free_address().unwrap();
        let child = Command::new(programs.join("prometheus"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Some(Self { child, programs, http, url: format!("http://{address}/api/v1"), _data: data })
    }

    /// Has promtool check names and help of what a role exposes.
    pub fn lint(&self, exposed: &str) {
        let mut promtool = Command::new(self.programs.join("promtool"))
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        promtool.stdin.take().unwrap().write_all(exposed.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    async fn get(&self, path: &str) -> Option<Value> {
        let answer = self.http.get(format!("{}/{path}", self.url)).send().await.ok()?;
        let answer: Value = answer.json().await.ok()?;
        (answer["status"] == "success").then(|| answer["data"].clone())
    }

    /// Evaluates an expression; returns the number of its series.
    async fn query(&self, expression: &str) -> Result<usize, String> {
        let query = Url::parse_with_params(&format!("{}/query", self.url), [("query", expression)]);
        let request = self.http.get(query.map_err(|error| error.to_string())?);
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        match answer["data"]["result"].as_array() {
            Some(result) => Ok(result.len()),
            None => Err(answer.to_string()),
        }
    }

    /// Waits until every role is scraped; then checks that each rule is evaluated, that each expression of alerts and
    /// dashboard names series that exist, and that each panel of the dashboard shows something.
    pub async fn check(&self, roles: usize) {
        eventually("every role is scraped twice", LONG, || async {
            let up = self.query("up == 1 and count_over_time(up[1m]) > 2").await;
            (up == Ok(roles)).then_some(())
        })
        .await;
        let rules = eventually("every rule is evaluated", LONG, || async {
            let rules = self.get("rules").await?;
            let groups = rules["groups"].as_array()?;
            let rules: Vec<Value> = groups
                .iter()
                .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
                .collect();
            rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
        })
        .await;
        assert!(rules.len() > 30, "{}", rules.len());
        for rule in &rules {
            assert_eq!(rule["health"], "ok", "{rule}");
        }
        let expressions: Vec<String> =
            rules.iter().map(|rule| rule["query"].as_str().unwrap().to_owned()).chain(panels()).collect();
        let missing = RefCell::new(BTreeSet::new());
        // A series exists once it was scraped, and a recorded one once its rule was evaluated after that.
        eventually("every expression names series that exist", LONG, || async {
            let there = self.get("label/__name__/values").await?;
            let there: BTreeSet<&str> = there.as_array()?.iter().filter_map(Value::as_str).collect();
            let named = expressions.iter().flat_map(|expression| names(expression));
            let absent: BTreeSet<String> = named.filter(|name| !there.contains(name.as_str())).collect();
            if *missing.borrow() != absent {
                println!("there is no {absent:?}");
                missing.borrow_mut().clone_from(&absent);
            }
            absent.is_empty().then_some(())
        })
        .await;
        for expression in panels() {
            eventually(&format!("a panel shows something: {expression}"), LONG, || async {
                let shown = self.query(&expression).await.unwrap_or_else(|why| panic!("{expression}: {why}"));
                (shown > 0).then_some(())
            })
            .await;
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the expressions of the dashboard's panels, with Grafana's variables replaced.
fn panels() -> Vec<String> {
    let dashboard = fs::read_to_string(root().join("charts/amends/files/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let expression = |target: Value| {
        let text = target["expr"].as_str().unwrap();
        text.replace("$__rate_interval", "1m").replace("$__range", "5m")
    };
    targets.map(expression).collect()
}

/// Returns the names of metrics and recorded series in an expression.
fn names(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words
        .filter(|word| word.starts_with("amends_") || word.starts_with("amends:"))
        .map(str::to_owned)
        .collect()
}
