//! The embedded Postgres, as `dev` uses it.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use amends_embedded::{Error, Postgres, PostgresOptions};
use amends_testkit::eventually;
use sqlx::{Connection, PgConnection};

/// Committed data outlives every process. A power failure is not among these tests.
fn options(directory: &Path) -> PostgresOptions {
    PostgresOptions {
        fsync: false,
        settings: vec![("synchronous_commit".into(), "on".into())],
        ..PostgresOptions::new(directory.join("data"))
    }
}

async fn number(url: &str, sql: &'static str) -> i32 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

fn postmaster(server: &Postgres) -> Option<String> {
    let file = std::fs::read_to_string(server.directory().join("cluster/postmaster.pid")).ok()?;
    file.lines().next().map(str::to_owned)
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart_and_gone_when_fresh() {
    let directory = tempfile::tempdir().unwrap();
    let server = Postgres::start(options(directory.path())).await.unwrap();
    let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
    sqlx::query("CREATE TABLE kept AS SELECT 7 AS n").execute(&mut connection).await.unwrap();
    drop(connection);
    server.stop().await;

    let server = Postgres::start(options(directory.path())).await.unwrap();
    assert_eq!(number(&server.url("postgres"), "SELECT n FROM kept").await, 7);
    server.stop().await;

    let server = Postgres::start(PostgresOptions { fresh: true, ..options(directory.path()) }).await.unwrap();
    assert_eq!(
        number(&server.url("postgres"), "SELECT count(*)::int FROM pg_class WHERE relname = 'kept'").await,
        0
    );
}

#[tokio::test]
async fn only_who_knows_the_password_gets_in() {
    let directory = tempfile::tempdir().unwrap();
    let server = Postgres::start(options(directory.path())).await.unwrap();
    let guess = format!("postgres://postgres:guess@127.0.0.1:{}/postgres", server.port());
    let refused = PgConnection::connect(&guess).await.unwrap_err();
    assert!(refused.to_string().contains("password authentication failed"), "{refused}");

    let password = std::fs::metadata(server.directory().join("password")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&password.permissions()) & 0o777, 0o600);
}

#[tokio::test]
async fn a_cluster_whose_password_is_lost_is_refused_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let server = Postgres::start(options(directory.path())).await.unwrap();
    let path = server.directory().join("password");
    let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
    sqlx::query("CREATE TABLE kept AS SELECT 7 AS n").execute(&mut connection).await.unwrap();
    drop(connection);
    server.stop().await;
    let password = std::fs::read(&path).unwrap();
    for lost in [Some(""), None] {
        match lost {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let refused = Postgres::start(options(directory.path())).await;
        assert!(matches!(refused, Err(Error::PasswordLost(named)) if named == path));
    }
    std::fs::write(&path, password).unwrap();
    let server = Postgres::start(options(directory.path())).await.unwrap();
    assert_eq!(number(&server.url("postgres"), "SELECT n FROM kept").await, 7);
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused_and_the_first_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let first = Postgres::start(options(directory.path())).await.unwrap();
    assert!(matches!(Postgres::start(options(directory.path())).await, Err(Error::InUse(_))));
    assert_eq!(number(&first.url("postgres"), "SELECT 1").await, 1);
}

#[tokio::test]
async fn killed_alone_it_comes_back_on_the_same_port() {
    let directory = tempfile::tempdir().unwrap();
    let server = Postgres::start(options(directory.path())).await.unwrap();
    let killed = postmaster(&server).unwrap();
    assert!(Command::new("sh").args(["-c", &format!("kill -9 {killed}")]).status().unwrap().success());

    eventually("it is back", Duration::from_secs(90), async || {
        let again = postmaster(&server).filter(|running| *running != killed)?;
        PgConnection::connect(&server.url("postgres")).await.ok().map(|_| again)
    })
    .await;
}

#[tokio::test]
async fn a_pid_file_that_names_somebody_else_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = Postgres::start(options(directory.path())).await.unwrap();
    let pid_file = server.directory().join("cluster/postmaster.pid");
    let stale = std::fs::read_to_string(&pid_file).unwrap().replacen(&postmaster(&server).unwrap(), "1", 1);
    server.stop().await;
    std::fs::write(&pid_file, stale).unwrap();
    Postgres::start(options(directory.path())).await.unwrap();
}

#[tokio::test]
async fn a_cluster_half_made_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("data/cluster.new/base")).unwrap();
    let server = Postgres::start(options(directory.path())).await.unwrap();
    assert_eq!(number(&server.url("postgres"), "SELECT 1").await, 1);
}

#[tokio::test]
async fn as_root_a_directory_out_of_reach_is_replaced_by_the_same_other_one_each_time() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let home = tempfile::tempdir().unwrap();
    if std::fs::metadata(home.path()).unwrap().uid() != 0 {
        return; // Without root, the server runs as this user, wherever this user can write.
    }
    std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let asked = options(home.path());
    let server = Postgres::start(asked.clone()).await.unwrap();
    let used = server.directory().to_owned();
    assert_ne!(used, asked.data_dir);
    server.stop().await;
    let server = Postgres::start(asked).await.unwrap();
    assert_eq!(server.directory(), used);
    server.stop().await;
    std::fs::remove_dir_all(used).unwrap();
}

/// Not a test: the program that the next tests run as a separate process.
#[tokio::test]
async fn holds_a_server_when_asked_to() {
    let Some(directory) = std::env::var_os("HOLD_A_SERVER_IN") else { return };
    let server = Postgres::start(options(Path::new(&directory))).await.unwrap();
    let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
    sqlx::query("CREATE TABLE kept AS SELECT 7 AS n").execute(&mut connection).await.unwrap();
    println!("\nholding {}", postmaster(&server).unwrap());
    std::future::pending::<()>().await;
}

/// Starts a process with a server; returns it with the server's process id.
fn hold(directory: &Path) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["holds_a_server_when_asked_to", "--exact", "--nocapture"])
        .env("HOLD_A_SERVER_IN", directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let pid = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("holding ").map(str::to_owned));
    (child, pid.expect("it holds a server"))
}

#[tokio::test]
async fn a_server_ends_with_the_process_that_started_it_though_that_was_killed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut holder, server) = hold(directory.path());
    holder.kill().unwrap();
    holder.wait().unwrap();
    eventually("the server is gone", Duration::from_secs(90), async || {
        (!Path::new("/proc").join(&server).exists()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn after_kill_9_of_everything_the_next_start_finds_what_was_committed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut holder, server) = hold(directory.path());
    assert!(
        Command::new("sh")
            .args(["-c", &format!("kill -9 {server} {}", holder.id())])
            .status()
            .unwrap()
            .success()
    );
    holder.wait().unwrap();
    let server = Postgres::start(options(directory.path())).await.unwrap();
    assert_eq!(number(&server.url("postgres"), "SELECT n FROM kept").await, 7);
}

#[tokio::test]
async fn it_listens_at_the_address_that_it_was_given_and_at_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let address = Ipv4Addr::new(127, 0, 0, 2);
    let server = Postgres::start(PostgresOptions { address, ..options(directory.path()) }).await.unwrap();
    assert_eq!(server.address().ip(), address);
    assert_eq!(number(&server.url("postgres"), "SELECT 7").await, 7);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, server.port())).is_err());
    let rules = std::fs::read_to_string(server.directory().join("cluster/pg_hba.conf")).unwrap();
    assert!(rules.ends_with("\nhost all all samenet scram-sha-256\n"), "{rules}");
    server.stop().await;
}
