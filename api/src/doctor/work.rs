//! What waits in the engine's database, and which programs are at work on it.

use std::time::Duration;

use amends_pool::Pool;

use super::finding::Finding;

/// How late the oldest timer may be while engines work.
const TIMER_LATEST: Duration = Duration::from_secs(30);
/// A program that has announced itself within this time is live.
const PROGRAM_LIVE: Duration = Duration::from_secs(10);
/// Counts stop here.
const COUNTED_MOST: i64 = 1_000;

/// Each reads a bounded number of index entries: one more than [`COUNTED_MOST`]. A distributed database refuses them in one
/// statement, and with a parameter.
const PARKED: &str = "SELECT count(*) FROM (SELECT 1 FROM sagas WHERE parked LIMIT 1001) AS parked";
const STRAYS: &str = "SELECT count(*) FROM (SELECT 1 FROM strays LIMIT 1001) AS stray";
const LOST: &str = "SELECT count(*) FROM (SELECT 1 FROM lost_commits LIMIT 1001) AS lost";
const SUSPENDED: &str = "SELECT is_suspended FROM deployment";
const DEFERRED: &str = "SELECT count(*) FROM (SELECT 1 FROM deferred_replies LIMIT 1001) AS deferred";
const TIMER_LATE: &str =
    "SELECT extract(epoch FROM clock_timestamp() - min(wake_at))::float8 FROM sagas WHERE live";
const PROGRAMS: &str = "
    SELECT count(*), count(DISTINCT known) FROM programs
    WHERE seen_at > clock_timestamp() - make_interval(secs => $1)";
const MAY_REWRITE: &str =
    "SELECT has_table_privilege('timeline', 'DELETE') OR has_table_privilege('timeline', 'UPDATE')";

/// What waits in the engine's database.
#[derive(Debug, Clone)]
pub(super) struct Work {
    parked: i64,
    strays: i64,
    lost: i64,
    is_suspended: bool,
    deferred: i64,
    /// In seconds; negative if the next timer is due later.
    timer_late: Option<f64>,
    programs: i64,
    versions: i64,
    may_rewrite: bool,
}

impl Work {
    pub(super) async fn read(pool: &Pool) -> Result<Self, sqlx::Error> {
        let count = async |sql: &'static str| -> Result<i64, sqlx::Error> {
            sqlx::query_scalar(sql).fetch_one(pool).await
        };
        let programs = sqlx::query_as(PROGRAMS).bind(PROGRAM_LIVE.as_secs_f64());
        let (programs, versions): (i64, i64) = programs.fetch_one(pool).await?;
        Ok(Self {
            parked: count(PARKED).await?,
            strays: count(STRAYS).await?,
            lost: count(LOST).await?,
            is_suspended: sqlx::query_scalar(SUSPENDED).fetch_one(pool).await?,
            deferred: count(DEFERRED).await?,
            timer_late: sqlx::query_scalar(TIMER_LATE).fetch_one(pool).await?,
            programs,
            versions,
            may_rewrite: sqlx::query_scalar(MAY_REWRITE).fetch_one(pool).await?,
        })
    }

    /// Judges it.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let subject = "sagas";
        let many = |count: i64| {
            if count > COUNTED_MOST { format!("more than {COUNTED_MOST}") } else { count.to_string() }
        };
        findings.push(match (self.programs, self.versions) {
            (0, _) => Finding::wrong(
                "programs",
                "no engine and no api has announced itself for 10 s",
                "Start them: without an engine no order progresses.",
            ),
            (programs, 1) => {
                Finding::good("programs", format!("{programs} engines and apis are live, all of one version"))
            }
            (programs, versions) => Finding::warning(
                "programs",
                format!("{programs} engines and apis are live, of {versions} versions"),
                "Finish the upgrade: sagas are born in a new version only once all know it.",
            ),
        });
        findings.push(match self.timer_late {
            Some(late) if late > TIMER_LATEST.as_secs_f64() => Finding::wrong(
                subject,
                format!("the oldest timer is {late:.0} s overdue"),
                "See whether engines run, own all partitions (lag below), and reach the database.",
            ),
            _ => Finding::good(subject, "timers are in time"),
        });
        if self.parked > 0 {
            findings.push(Finding::warning(
                subject,
                format!("{} are parked and wait for an operator", many(self.parked)),
                "GET /admin/sagas?state=parked lists them with their reasons.",
            ));
        }
        if self.strays > 0 {
            findings.push(Finding::warning(
                subject,
                format!("{} successes arrived that no saga here had ordered", many(self.strays)),
                "Effects may exist without an order: see the table strays, and whether a database was restored.",
            ));
        }
        if self.is_suspended {
            findings.push(Finding::wrong(
                subject,
                "the database has lost commits, and no program starts",
                "Look at the orders at risk (table lost_commits), then run `amends restore`.",
            ));
        }
        if self.lost > 0 {
            findings.push(Finding::warning(
                subject,
                format!("the database has lost commits of {}", many(self.lost)),
                "See \"Lost commits\" in OPERATING. Rows of the table lost_commits that are dealt with can be deleted.",
            ));
        }
        if self.deferred > 0 {
            findings.push(Finding::warning(
                subject,
                format!("{} replies wait for a program that can judge them", many(self.deferred)),
                "Run an engine of the newest version that has run here.",
            ));
        }
        if self.may_rewrite {
            findings.push(Finding::warning(
                subject,
                "the login role may change the history of sagas",
                "Use the role that `amends migrate` has created.",
            ));
        }
        findings
    }
}
