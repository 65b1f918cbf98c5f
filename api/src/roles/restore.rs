//! `amends restore`: begins the next epoch after the engine's database was restored to an earlier state.

use std::{fmt::Write as _, time::Duration};

use amends_engine::port::EPOCHS_FROM;
use amends_pool::{Bounds, Plans, Pool};
use amends_postgres::{
    MIGRATOR,
    deployment::{Error, raise_epoch_to},
};
use anyhow::{Context, Result, bail};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;
use sqlx::{FromRow, postgres::PgConnectOptions};

use super::engine::ENGINE_GROUP;
use crate::{cli::OutputFormat, settings::Settings, topics::REPLIES};

/// The search for the newest change reads every saga.
const RESTORE_BOUNDS: Bounds = Bounds { statement: Duration::from_secs(600), call: Duration::from_secs(610) };
/// A program that has announced itself within this time is live.
const PROGRAM_LIVE: Duration = Duration::from_secs(10);

/// Replies are read again from so long before the newest change: engines may not have read yet what had arrived by then,
/// and a group that is set to a time skips what it has not read.
const READ_AGAIN: TimeDelta = TimeDelta::hours(1);

/// What is found in the restored database. Live, parked and awaiting sagas have not ended.
const LOOK: &str = "
    SELECT (SELECT epoch FROM deployment) AS epoch,
           pg_is_in_recovery() AS is_recovering,
           (SELECT count(*) FROM programs WHERE seen_at > clock_timestamp() - make_interval(secs => $1)) AS programs,
           (SELECT max(updated_at) FROM sagas) AS newest_change,
           (SELECT count(*) FROM sagas WHERE live) AS live_sagas,
           (SELECT count(*) FROM sagas WHERE parked) AS parked_sagas,
           (SELECT count(*) FROM strays) AS strays,
           (SELECT count(*) FROM lost_commits) AS lost_commits";

#[derive(Debug, Clone, FromRow)]
struct Looked {
    epoch: Option<i32>,
    is_recovering: bool,
    programs: i64,
    newest_change: Option<DateTime<Utc>>,
    live_sagas: i64,
    parked_sagas: i64,
    strays: i64,
    lost_commits: i64,
}

/// What was done, and what is at risk.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Restored {
    /// Whether nothing was changed.
    dry_run: bool,
    epoch_before: u32,
    epoch: u32,
    /// When the restored database was written last: later changes are lost.
    newest_change: Option<DateTime<Utc>>,
    live_sagas: i64,
    parked_sagas: i64,
    strays: i64,
    lost_commits: i64,
}

/// Raises the epoch of the engine's database on `database_url`'s server, unless it shall only look; prints what is at
/// risk.
///
/// # Errors
/// There is no deployment, the database is still recovering, or programs use it.
pub async fn run(settings: &Settings, dry_run: bool, output: OutputFormat) -> Result<()> {
    let pool = owner(settings).await?;
    amends_pool::is_at(&pool, &MIGRATOR).await?;
    let looked: Looked = sqlx::query_as(LOOK).bind(PROGRAM_LIVE.as_secs_f64()).fetch_one(&pool).await?;
    let before = looked.epoch.ok_or(Error::Missing)?.unsigned_abs();
    if looked.is_recovering && !dry_run {
        bail!("the database is still recovering: promote it first (pg_promote)");
    }
    if looked.programs > 0 && !dry_run {
        bail!(
            "{} api and engine processes use the database: stop them, wait {} s, and run this again",
            looked.programs,
            PROGRAM_LIVE.as_secs()
        );
    }
    let epoch = match dry_run {
        true => before,
        false => raise_epoch_to(&pool, epoch_of(Utc::now())).await.context("raising the epoch")?,
    };
    let Looked { newest_change, live_sagas, parked_sagas, strays, lost_commits, .. } = looked;
    let restored = Restored {
        dry_run,
        epoch_before: before,
        epoch,
        newest_change,
        live_sagas,
        parked_sagas,
        strays,
        lost_commits,
    };
    match output {
        OutputFormat::Table => print!("{}", as_text(&restored)),
        OutputFormat::Json => println!("{}", serde_json::to_string_pretty(&restored)?),
    }
    pool.close().await;
    Ok(())
}

/// Returns the number of an epoch that begins now: seconds since 2020. A database that was restored to a moment before an
/// earlier restore has forgotten that epoch, and to count on from what it contains would begin it again.
fn epoch_of(now: DateTime<Utc>) -> u32 {
    let seconds = (now.timestamp() - EPOCHS_FROM).clamp(0, i64::from(i32::MAX));
    u32::try_from(seconds).unwrap_or_default()
}

/// Connects to the engine's database as its owner.
async fn owner(settings: &Settings) -> Result<Pool> {
    let mut url = reqwest::Url::parse(settings.server()?).context("setting database_url")?;
    let _: PgConnectOptions = url.as_str().parse().context("setting database_url")?;
    url.set_path("amends_engine");
    // Each statement is executed once, and a distributed Postgres cannot plan them without their parameters.
    let pool = Pool::connect_planned(url.as_str(), 1, "amends-restore", RESTORE_BOUNDS, Plans::Custom)?;
    let checked = amends_pool::check(&pool, settings.start_timeout).await;
    checked.context("setting database_url: the engine's database cannot be used")?;
    Ok(pool)
}

fn as_text(restored: &Restored) -> String {
    let Restored { dry_run, epoch_before, epoch, newest_change, live_sagas, parked_sagas, .. } = restored;
    let Restored { strays, lost_commits, .. } = restored;
    let newest = newest_change.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true));
    let mut text = String::new();
    let mut line = |what: &str, found: String| _ = writeln!(text, "{what:<14}{found}");
    match dry_run {
        true => line("epoch", format!("{epoch}; unchanged, because this is a dry run")),
        false => line("epoch", format!("{epoch}, before {epoch_before}")),
    }
    line("newest change", newest.unwrap_or_else(|| "none".to_owned()));
    line("live sagas", format!("{live_sagas}; engines ask again for what these have ordered"));
    line("parked sagas", parked_sagas.to_string());
    line("strays", format!("{strays} so far"));
    if *lost_commits > 0 {
        line("lost commits", format!("of {lost_commits} sagas (table lost_commits)"));
    }
    let since = newest_change.map(|at| (at - READ_AGAIN).to_rfc3339_opts(SecondsFormat::Millis, true));
    let since = since.unwrap_or_else(|| "<an hour before the point of the restore>".to_owned());
    let _ = write!(
        text,
        "\nOrders, cancellations and operators' actions after the newest change are lost. Their effects are not: the\n\
         workers' databases were not restored. To have them listed as strays, let the engines read again what workers\n\
         have replied since an hour before it (or longer, if engines lagged by more; what is read twice does no harm),\n\
         and then start the roles:\n\n    \
         kafka-consumer-groups.sh --bootstrap-server … --group {ENGINE_GROUP} --topic {REPLIES} \\\n        \
         --reset-offsets --to-datetime {since} --execute\n\n\
         See \"Backup and restore\" in docs/OPERATING.md.\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_restore_begins_a_later_epoch_whatever_the_database_has_forgotten() {
        let of = |seconds| epoch_of(DateTime::from_timestamp(seconds, 0).unwrap());
        assert_eq!([of(1_795_000_000), of(1_795_000_001)], [217_163_200, 217_163_201]);
        assert_eq!([of(0), of(9_000_000_000)], [0, i32::MAX.unsigned_abs()]);
    }

    #[test]
    fn the_text_says_what_was_done_and_from_when_on_replies_are_read_again() {
        let restored = Restored {
            dry_run: false,
            epoch_before: 0,
            epoch: 1,
            newest_change: DateTime::from_timestamp(1_767_225_600, 0),
            live_sagas: 12,
            parked_sagas: 1,
            strays: 0,
            lost_commits: 0,
        };
        let text = as_text(&restored);
        assert!(
            text.starts_with("epoch         1, before 0\nnewest change 2026-01-01T00:00:00.000Z\n"),
            "{text}"
        );
        assert!(text.contains("--to-datetime 2025-12-31T23:00:00.000Z"), "{text}");
        let only = as_text(&Restored { dry_run: true, epoch: 0, newest_change: None, ..restored });
        assert!(only.starts_with("epoch         0; unchanged"), "{only}");
    }
}
