//! `amends migrate` with a distributed database. What cannot be is refused in one line, and leaves nothing half-made. With
//! `AMENDS_TEST_CITUS` also on a real Citus.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
    str::FromStr,
};

use amends_embedded::{Postgres, PostgresOptions};
use amends_proof::deployment::citus::Citus;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

use crate::support::CITUS_TURN;

const CITUS: [&str; 2] = ["--set", "distributed=citus"];

fn migrate(url: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_amends"));
    command.arg("migrate").args(arguments).env_clear().env("DATABASE_URL", url).output().unwrap()
}

/// Asserts that it is refused, in one line with these words.
#[track_caller]
fn assert_refused(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
}

async fn databases(url: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let all = "SELECT datname FROM pg_database WHERE datname LIKE 'amends\\_%' ORDER BY 1";
    sqlx::query_scalar(all).fetch_all(&mut connection).await.unwrap()
}

async fn execute(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_extension_and_homes_that_change_are_refused_in_one_line() {
    let data = tempfile::tempdir().unwrap();
    let server = Postgres::start(PostgresOptions::new(data.path())).await.unwrap();
    let url = server.url("postgres");
    assert_refused(&migrate(&url, &CITUS), &["extension citus", "postgres"]);
    assert_refused(
        &migrate(&url, &["--set", "distributed=citus", "--set", "homes=50"]),
        &["homes", "reply_partitions"],
    );
    assert_eq!(databases(&url).await, [""; 0], "nothing was made");

    assert!(migrate(&url, &[]).status.success());
    execute(&server.url("amends_engine"), "UPDATE deployment SET homes = 48").await;
    assert_refused(&migrate(&url, &[]), &["48", "distributed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_waits_for_a_lock_says_who_holds_it_and_ends_or_goes_on_once_it_is_free() {
    let data = tempfile::tempdir().unwrap();
    let server = Postgres::start(PostgresOptions::new(data.path())).await.unwrap();
    let url = server.url("postgres");
    assert!(migrate(&url, &[]).status.success());

    let mut holder = PgConnection::connect(&server.url("amends_payment")).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut holder).await.unwrap();
    let mut open = holder.begin().await.unwrap();
    sqlx::query("LOCK TABLE _sqlx_migrations").execute(&mut *open).await.unwrap();
    // Long enough for all connections, also on a busy machine.
    let refused = migrate(&url, &["--set", "start_timeout=10s"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    let held = format!("pid {pid} (postgres: idle in transaction)");
    let last = said.lines().last().unwrap();
    assert!(last.contains("amends_payment") && last.contains(&held), "{said}");

    let mut waiting = Command::new(env!("CARGO_BIN_EXE_amends"))
        .args(["migrate", "--set", "start_timeout=90s"])
        .env_clear()
        .env("DATABASE_URL", &url)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(waiting.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut said = Vec::new();
    for line in lines.by_ref() {
        let waits = line.contains("will be tried again") && line.contains(&held);
        said.push(line);
        if waits {
            break;
        }
    }
    assert!(said.last().is_some_and(|line| line.contains(&held)), "{said:?}");
    open.rollback().await.unwrap();
    lines.for_each(drop);
    assert!(waiting.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_is_in_the_log_of_a_migration_at_any_level() {
    let data = tempfile::tempdir().unwrap();
    let server = Postgres::start(PostgresOptions::new(data.path())).await.unwrap();
    let role = |name| format!("postgres://amends_{name}:password-in-no-log@127.0.0.1/amends_{name}");
    let output = Command::new(env!("CARGO_BIN_EXE_amends"))
        .arg("migrate")
        .env_clear()
        .env("DATABASE_URL", server.url("postgres"))
        .env("AMENDS_LOG", "trace")
        .env("AMENDS_ENGINE_DATABASE_URL", role("engine"))
        .env("AMENDS_PAYMENT_DATABASE_URL", role("payment"))
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let printed = String::from_utf8_lossy(&output.stdout);
    let drawn: Vec<&str> =
        printed.lines().filter_map(|line| line.split(':').nth(2)?.split('@').next()).collect();
    assert_eq!(drawn.len(), 3, "{printed}");
    for secret in drawn.into_iter().chain(["password-in-no-log"]) {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

/// How many homes are on each node that has any.
async fn homes_by_node(engine: &str) -> Vec<i64> {
    let mut connection = PgConnection::connect(engine).await.unwrap();
    let count = "SELECT count(*) FROM generate_series(0, 47) AS h (home)
                 JOIN citus_shards AS s ON s.shardid = get_shard_id_for_distribution_column('sagas', h.home)
                 GROUP BY s.nodename, s.nodeport";
    sqlx::query_scalar(count).fetch_all(&mut connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_citus_every_node_gets_its_homes_and_what_cannot_be_leaves_nothing_half_distributed() {
    let Ok(citus) = env::var("AMENDS_TEST_CITUS") else {
        return eprintln!("left out: AMENDS_TEST_CITUS names no Citus");
    };
    let _turn = CITUS_TURN.lock().await;
    Citus::at(&citus).unwrap().clear().await.unwrap();
    let of = |database: &str| {
        PgConnectOptions::from_str(&citus).unwrap().database(database).to_url_lossy().to_string()
    };

    // A cluster with a node that nobody answers for.
    execute(&citus, "DROP DATABASE IF EXISTS amends_test_broken WITH (FORCE)").await;
    execute(&citus, "CREATE DATABASE amends_test_broken").await;
    let broken = of("amends_test_broken");
    execute(
        &broken,
        "CREATE EXTENSION citus; SELECT citus_set_coordinator_host('127.0.0.1');
        INSERT INTO pg_dist_node (nodename, nodeport, groupid) VALUES ('127.0.0.1', 1, 99)",
    )
    .await;
    assert_refused(&migrate(&broken, &CITUS), &["127.0.0.1:1", "does not answer"]);
    execute(&citus, "DROP DATABASE amends_test_broken WITH (FORCE)").await;
    let made = databases(&citus).await;
    assert!(made.iter().all(|name| name.starts_with("amends_test_")), "{made:?}");

    for again in [false, true] {
        let output = migrate(&citus, &CITUS);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!again || output.stdout.is_empty(), "a second time there is nothing to tell");
    }
    let homes = homes_by_node(&of("amends_engine")).await;
    let nodes = Citus::at(&citus).unwrap().workers().await.unwrap();
    assert_eq!(homes.len(), nodes.len(), "a node without homes is not counted: {homes:?}");
    let (least, most) = (homes.iter().min().unwrap(), homes.iter().max().unwrap());
    assert!(most - least <= 1 && homes.iter().sum::<i64>() == 48, "{homes:?}");
    assert_refused(&migrate(&citus, &["--set", "distributed=citus", "--set", "homes=24"]), &["48", "24"]);
    assert_refused(&migrate(&citus, &[]), &["48", "distributed"]);

    // After a restore of all nodes an operator looks, begins the next epoch, and looks again.
    let mut before = 0;
    for arguments in [&["--dry-run"] as &[&str], &[], &["--dry-run"]] {
        let mut restore = Command::new(env!("CARGO_BIN_EXE_amends"));
        restore.args(["restore", "--output", "json"]).args(arguments).env_clear().env("DATABASE_URL", &citus);
        let restored = restore.output().unwrap();
        assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        let printed: serde_json::Value = serde_json::from_slice(&restored.stdout).unwrap();
        assert_eq!(printed["epochBefore"], before, "{printed}");
        let epoch = printed["epoch"].as_i64().unwrap();
        assert_eq!(epoch > before, arguments.is_empty(), "only a restore begins an epoch: {printed}");
        before = epoch;
    }
    Citus::at(&citus).unwrap().clear().await.unwrap();
}
