//! A service's database: whether it answers, has this program's schema, and keeps what it has confirmed; also each node of
//! a distributed one.

use std::time::{Duration, Instant};

use amends_pool::{Bounds, Error, Pool, check, is_at, sqlstate};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use sqlx::FromRow;

use super::{finding::Finding, links, rights::Rights, work::Work};
use crate::{services::Service, settings::Settings};

const CONNECTIONS: u32 = 1;
pub(super) const BOUNDS: Bounds = Bounds { statement: Duration::from_secs(5), call: Duration::from_secs(7) };
/// A difference between clocks above which tokens are refused or accepted by mistake: their leeway.
const SKEW_MOST: TimeDelta = TimeDelta::seconds(30);
const SKEW_NOTED: TimeDelta = TimeDelta::seconds(1);
/// The longest transaction that does no harm.
const TRANSACTION_LONGEST: Duration = Duration::from_secs(60);

/// Looks at a service's database.
pub(super) async fn examine(settings: &Settings, service: &Service) -> Vec<Finding> {
    let subject = format!("database {}", service.name);
    let url = match settings.database_of(service.name) {
        Ok(url) => url,
        Err(_) => {
            return vec![Finding::skipped(&subject, format!("{}_database_url is not set", service.name))];
        }
    };
    let pool = match Pool::connect(url, CONNECTIONS, "amends-doctor", BOUNDS) {
        Ok(pool) => pool,
        Err(error) => return vec![Finding::wrong(&subject, error.to_string(), "Correct the setting.")],
    };
    if let Err(error) = check(&pool, settings.start_timeout).await {
        let advice = match &error {
            Error::Unreachable(source) if sqlstate::is_forbidden(source) => {
                format!(
                    "As the server's owner: GRANT CONNECT ON DATABASE amends_{} TO the role.",
                    service.name
                )
            }
            _ => "Check host, port, password and the network between here and the database.".to_owned(),
        };
        return vec![Finding::wrong(&subject, error.to_string(), advice)];
    }
    let rights = match Rights::read(&pool, service).await {
        Ok(rights) => rights,
        Err(error) => return vec![unreadable(&subject, &error)],
    };
    // What a lack of rights explains is not found twice.
    let is_explained = |error: &sqlx::Error| !rights.are_whole() && sqlstate::is_forbidden(error);
    let mut findings = vec![rights.finding(&subject)];
    if let Err(error) = is_at(&pool, service.migrator).await {
        let is_hidden = match &error {
            Error::Unreachable(source) => is_explained(source),
            Error::Older => rights.hide_the_schema(),
            _ => false,
        };
        if is_hidden {
            return findings;
        }
        let advice = match &error {
            Error::Older => "Run `amends migrate` with this version.",
            _ => "Run the version of `amends` that belongs to this database.",
        };
        return vec![Finding::wrong(&subject, error.to_string(), advice)];
    }
    let asked = (Utc::now(), Instant::now());
    let facts = sqlx::query_as::<_, Facts>(FACTS).fetch_one(&pool).await;
    match facts {
        Ok(facts) => {
            let took = asked.1.elapsed();
            let middle = asked.0 + TimeDelta::from_std(took / 2).unwrap_or_default();
            findings.extend(facts.findings(&subject, took, middle));
            let key = settings.database_key_of(service.name);
            findings.extend(links::of_database(&subject, &key, url, facts.is_encrypted));
        }
        Err(error) => findings.push(unreadable(&subject, &error)),
    }
    if service.name == "engine" {
        match nodes(&pool, &subject).await {
            Ok(of_nodes) => findings.extend(of_nodes),
            Err(error) => findings.push(unreadable(&subject, &error)),
        }
        match Work::read(&pool).await {
            Ok(work) => findings.extend(work.findings()),
            Err(error) if is_explained(&error) => {}
            Err(error) => findings.push(unreadable(&subject, &error)),
        }
    }
    pool.close().await;
    findings
}

fn unreadable(subject: &str, error: &sqlx::Error) -> Finding {
    Finding::wrong(subject, format!("cannot be examined: {error}"), "See the message.")
}

/// Looks at the worker nodes of a database that is distributed by Citus; of any other there are none.
async fn nodes(pool: &Pool, subject: &str) -> Result<Vec<Finding>, sqlx::Error> {
    let is_distributed = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')";
    if !sqlx::query_scalar::<_, bool>(is_distributed).fetch_one(pool).await? {
        return Ok(Vec::new());
    }
    let asked = (Utc::now(), Instant::now());
    let answers: Vec<(String, i32, bool, String)> = sqlx::query_as(
        "SELECT n.nodename, n.nodeport, a.success, a.result
         FROM run_command_on_all_nodes($1, true) AS a JOIN pg_dist_node AS n USING (nodeid)
         WHERE n.groupid <> 0 ORDER BY n.nodeid",
    )
    .bind(format!("SELECT row_to_json(facts) FROM ({FACTS}) AS facts"))
    .fetch_all(pool)
    .await?;
    let took = asked.1.elapsed();
    let middle = asked.0 + TimeDelta::from_std(took / 2).unwrap_or_default();
    let of_node = |(host, port, has_answered, answer): (String, i32, bool, String)| {
        let subject = format!("{subject} on {host}:{port}");
        match serde_json::from_str::<Facts>(&answer).ok().filter(|_| has_answered) {
            Some(facts) => facts.findings(&subject, took, middle),
            None => {
                let advice = "Orders whose homes it has wait until it is back.";
                vec![Finding::wrong(&subject, format!("does not answer: {answer}"), advice)]
            }
        }
    };
    Ok(answers.into_iter().flat_map(of_node).collect())
}

/// Every server is asked this, and so is every node.
const FACTS: &str = "
    SELECT current_setting('server_version') AS version,
           current_setting('fsync') = 'on' AS syncs,
           current_setting('full_page_writes') = 'on' AS writes_full_pages,
           current_setting('synchronous_commit') AS synchronous_commit,
           current_setting('synchronous_standby_names') AS standbys,
           pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS is_read_only,
           coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS is_encrypted,
           (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
           current_setting('max_connections')::int8 AS connections_most,
           (SELECT sum(numbackends) FROM pg_stat_database)::int8 AS connections,
           (SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid())::float8 AS longest_transaction,
           clock_timestamp() AS now";

#[derive(Debug, Clone, FromRow, Deserialize)]
struct Facts {
    version: String,
    syncs: bool,
    writes_full_pages: bool,
    synchronous_commit: String,
    standbys: String,
    is_read_only: bool,
    is_encrypted: bool,
    is_superuser: bool,
    connections_most: i64,
    connections: i64,
    longest_transaction: Option<f64>,
    now: DateTime<Utc>,
}

impl Facts {
    /// Judges what the database says of itself. `middle`: this machine's time while it answered.
    fn findings(&self, subject: &str, took: Duration, middle: DateTime<Utc>) -> Vec<Finding> {
        let mut findings = vec![Finding::good(
            subject,
            format!("Postgres {} answers in {} ms", self.version, took.as_millis()),
        )];
        findings.push(self.durability(subject));
        if self.is_read_only {
            let advice = "It is a standby, or set to read only: name the primary in the URL.";
            findings.push(Finding::wrong(subject, "accepts no writes", advice));
        }
        if self.is_superuser {
            let advice = "Use the role that `amends migrate` has created: it cannot rewrite history.";
            findings.push(Finding::warning(subject, "the login role is a superuser", advice));
        }
        if self.connections * 10 >= self.connections_most * 9 {
            findings.push(Finding::warning(
                subject,
                format!("{} of {} connections are in use", self.connections, self.connections_most),
                "Raise max_connections, or lower database_connections of the roles.",
            ));
        }
        if let Some(seconds) = self.longest_transaction.filter(|s| *s > TRANSACTION_LONGEST.as_secs_f64()) {
            findings.push(Finding::warning(
                subject,
                format!("a transaction has been open for {seconds:.0} s"),
                "Find it in pg_stat_activity: while it is open, dead rows stay, and no month is dropped.",
            ));
        }
        // What the answer's way took is no difference.
        let doubt = TimeDelta::from_std(took / 2).unwrap_or_default();
        let skew = (self.now - middle).abs() - doubt;
        let said = || format!("its clock differs from this machine's by {:.1} s", ms(skew) / 1_000.0);
        if skew > SKEW_MOST {
            findings.push(Finding::wrong(
                subject,
                said(),
                "Synchronise the clocks (NTP): tokens are judged by them.",
            ));
        } else if skew > SKEW_NOTED {
            findings.push(Finding::warning(subject, said(), "Synchronise the clocks (NTP)."));
        }
        findings
    }

    /// Judges whether what was confirmed survives a crash.
    fn durability(&self, subject: &str) -> Finding {
        let lossy: Vec<&str> = [
            (!self.syncs).then_some("fsync is off"),
            (!self.writes_full_pages).then_some("full_page_writes is off"),
            (self.synchronous_commit == "off").then_some("synchronous_commit is off"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !lossy.is_empty() {
            return Finding::wrong(
                subject,
                format!("confirmed commits can be lost in a crash: {}", lossy.join(", ")),
                "Set fsync, full_page_writes and synchronous_commit to on. An order that was answered with 201 could vanish.",
            );
        }
        match (self.standbys.is_empty(), self.synchronous_commit.as_str()) {
            (true, _) => {
                Finding::good(subject, "confirmed commits survive a crash; no synchronous standby is set")
            }
            (false, "local") => Finding::warning(
                subject,
                "standbys are set, but synchronous_commit is local: a failover can lose confirmed commits",
                "Set synchronous_commit to on.",
            ),
            (false, "remote_write") => Finding::warning(
                subject,
                "confirmed commits survive a crash; synchronous_commit is remote_write: if the standby's system fails too, \
                 a failover can lose some",
                "Set synchronous_commit to on.",
            ),
            (false, level) => Finding::good(
                subject,
                format!(
                    "confirmed commits survive a crash, and a failover to a synchronous standby (synchronous_commit is {level})"
                ),
            ),
        }
    }
}

fn ms(of: TimeDelta) -> f64 {
    of.num_milliseconds() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Grade;

    fn facts() -> Facts {
        Facts {
            version: "17.2".into(),
            syncs: true,
            writes_full_pages: true,
            synchronous_commit: "on".into(),
            standbys: String::new(),
            is_read_only: false,
            is_encrypted: true,
            is_superuser: false,
            connections_most: 100,
            connections: 20,
            longest_transaction: None,
            now: DateTime::UNIX_EPOCH,
        }
    }

    /// Returns the worst grade, and all that was found.
    fn judged(facts: &Facts) -> (Grade, String) {
        let all = facts.findings("database", Duration::from_millis(4), DateTime::UNIX_EPOCH);
        let rank = |grade: Grade| match grade {
            Grade::Good => 0,
            Grade::Skipped => 1,
            Grade::Warning => 2,
            Grade::Wrong => 3,
        };
        let worst = all.iter().map(|finding| finding.grade).max_by_key(|grade| rank(*grade)).unwrap();
        (worst, all.into_iter().map(|finding| finding.found).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn a_database_that_may_lose_a_commit_is_never_called_safe() {
        for lossy in [
            Facts { syncs: false, ..facts() },
            Facts { writes_full_pages: false, ..facts() },
            Facts { synchronous_commit: "off".into(), ..facts() },
        ] {
            let (grade, found) = judged(&lossy);
            assert_eq!(grade, Grade::Wrong, "{found}");
            assert!(found.contains("can be lost") && !found.contains("survive"), "{found}");
        }
        let local = Facts { standbys: "other".into(), synchronous_commit: "local".into(), ..facts() };
        assert_eq!(judged(&local).0, Grade::Warning);
        let received =
            Facts { standbys: "other".into(), synchronous_commit: "remote_write".into(), ..facts() };
        assert_eq!(judged(&received).0, Grade::Warning);
        for safe in ["on", "remote_apply"] {
            let facts = Facts { standbys: "other".into(), synchronous_commit: safe.into(), ..facts() };
            assert_eq!(judged(&facts).0, Grade::Good, "{safe}");
        }
    }

    #[test]
    fn what_hinders_is_found() {
        let late = DateTime::UNIX_EPOCH + TimeDelta::seconds(31);
        for (facts, grade, word) in [
            (Facts { is_read_only: true, ..facts() }, Grade::Wrong, "no writes"),
            (Facts { is_superuser: true, ..facts() }, Grade::Warning, "superuser"),
            (Facts { connections: 90, ..facts() }, Grade::Warning, "90 of 100"),
            (Facts { longest_transaction: Some(61.0), ..facts() }, Grade::Warning, "open for 61 s"),
            (Facts { now: late, ..facts() }, Grade::Wrong, "differs"),
            (
                Facts { now: DateTime::UNIX_EPOCH - TimeDelta::seconds(3), ..facts() },
                Grade::Warning,
                "differs",
            ),
        ] {
            let (worst, found) = judged(&facts);
            assert_eq!(worst, grade, "{found}");
            assert!(found.contains(word), "{found}");
        }
        assert_eq!(judged(&facts()).0, Grade::Good);
    }
}
