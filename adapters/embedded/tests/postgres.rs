//! The embedded Postgres, as `dev` uses it.

use std::{process::Command, time::Duration};

use amends_embedded::{Postgres, PostgresOptions, postgres::Error};
use sqlx::{Connection, PgConnection};

fn options(directory: &tempfile::TempDir) -> PostgresOptions {
    PostgresOptions { fsync: false, ..PostgresOptions::new(directory.path().join("data")) }
}

async fn number(url: &str, sql: &'static str) -> i32 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

fn postmaster(server: &Postgres) -> String {
    let pid = std::fs::read_to_string(server.directory().join("cluster/postmaster.pid")).unwrap();
    pid.lines().next().unwrap().to_owned()
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart_and_gone_when_fresh() {
    let directory = tempfile::tempdir().unwrap();
    let server = Postgres::start(options(&directory)).await.unwrap();
    let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
    sqlx::query("CREATE TABLE kept AS SELECT 7 AS n").execute(&mut connection).await.unwrap();
    drop(connection);
    server.stop().await;

    let server = Postgres::start(options(&directory)).await.unwrap();
    assert_eq!(number(&server.url("postgres"), "SELECT n FROM kept").await, 7);
    server.stop().await;

    let server = Postgres::start(PostgresOptions { fresh: true, ..options(&directory) }).await.unwrap();
    assert_eq!(
        number(&server.url("postgres"), "SELECT count(*)::int FROM pg_class WHERE relname = 'kept'").await,
        0
    );
}

#[tokio::test]
async fn only_who_knows_the_password_gets_in() {
    let directory = tempfile::tempdir().unwrap();
    let server = Postgres::start(options(&directory)).await.unwrap();
    let guess = format!("postgres://postgres:guess@127.0.0.1:{}/postgres", server.port());
    let refused = PgConnection::connect(&guess).await.unwrap_err();
    assert!(refused.to_string().contains("password authentication failed"), "{refused}");

    let password = std::fs::metadata(server.directory().join("password")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&password.permissions()) & 0o777, 0o600);
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused_and_the_first_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let first = Postgres::start(options(&directory)).await.unwrap();
    assert!(matches!(Postgres::start(options(&directory)).await, Err(Error::InUse(_))));
    assert_eq!(number(&first.url("postgres"), "SELECT 1").await, 1);
}

#[tokio::test]
async fn killed_alone_it_comes_back_on_the_same_port() {
    let directory = tempfile::tempdir().unwrap();
    let server = Postgres::start(options(&directory)).await.unwrap();
    let killed = postmaster(&server);
    assert!(Command::new("kill").args(["-9", &killed]).status().unwrap().success());

    let back = async {
        loop {
            if let Ok(connection) = PgConnection::connect(&server.url("postgres")).await
                && postmaster(&server) != killed
            {
                return connection;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), back).await.expect("it is back");
}

#[tokio::test]
async fn a_pid_file_that_names_somebody_else_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = Postgres::start(options(&directory)).await.unwrap();
    let pid_file = server.directory().join("cluster/postmaster.pid");
    let stale = std::fs::read_to_string(&pid_file).unwrap().replacen(&postmaster(&server), "1", 1);
    server.stop().await;
    std::fs::write(&pid_file, stale).unwrap();
    Postgres::start(options(&directory)).await.unwrap();
}

#[tokio::test]
async fn a_cluster_half_made_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("data/cluster.new/base")).unwrap();
    let server = Postgres::start(options(&directory)).await.unwrap();
    assert_eq!(number(&server.url("postgres"), "SELECT 1").await, 1);
}
