//! The engine's database is restored to a point in the past, from a base backup and the archived log; the workers'
//! databases and the topics are not. This is the procedure of OPERATING, "Backup and restore".

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use amends_embedded::{Postgres, PostgresOptions};
use amends_kafka::{KafkaSettings, KafkaSink, KafkaSource};
use amends_proof::{
    books::{self as proof, Ledger},
    campaign::broker::Broker as Admin,
};
use amends_protocol::{
    Outcome, Reply,
    transport::{Inbound, Outbound, Placement, Sink, Source},
    wire,
};
use amends_testkit::eventually;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    books,
    support::{
        Broker, LONG, Process, Stack,
        client::{Client, order},
        load,
    },
};

/// The place in the log to which the database is restored.
const RESTORE_POINT: &str = "rehearsed";

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_into_the_past_doubles_no_effect_and_lists_what_it_has_lost() {
    let data = tempfile::tempdir().unwrap();
    let mut options = PostgresOptions::new(data.path());
    options.settings.push(("archive_mode".to_owned(), "on".to_owned()));
    let mut stack = Stack::on_server_with(Broker::embedded(), options).await;
    let archive = archive_log(&stack).await;
    let mut all = stack.start_all().await;
    load::stock(&stack).await;
    let api = all.last().unwrap().client();

    // Orders that have ended before the backup, and between the backup and the point.
    let mut kept = fulfilled(&api, 3).await;
    let backup = back_up(stack.server.as_ref().unwrap());
    kept.extend(fulfilled(&api, 3).await);
    // Orders that wait for their payment at the point, and are fulfilled after it: in the future that is lost.
    let payment = all.iter().position(|process| process.role == "worker payment").unwrap();
    all[payment].kill();
    let mut under_way = Vec::new();
    for _ in 0..4 {
        under_way.push(api.place(&order("mug", 1, "card_approved", "AT")).await);
    }
    for id in &under_way {
        api.becomes(id, "CONFIRMED").await;
    }
    let before = stack.pool("engine").clone();
    sqlx::query("SELECT pg_create_restore_point($1)").bind(RESTORE_POINT).execute(&before).await.unwrap();
    all[payment].kill_and_restart(&stack);
    for id in &under_way {
        api.becomes(id, "FULFILLED").await;
    }
    let lost = fulfilled(&api, 3).await;
    let lost_sagas = sagas_of(&before, &lost).await;
    books::settle(&stack).await;

    // As long as programs use the database, no epoch begins.
    let refused = restore(&stack, stack.server.as_ref().unwrap(), &[]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!((refused.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("processes use the database"), "{said}");

    all.iter_mut().for_each(Process::kill);
    let replies = read_all(&stack, "saga.replies").await;
    archived(&before, &archive).await;
    let restored = recover(stack.server.as_ref().unwrap(), &backup, &archive).await;
    stack.move_to("engine", &restored);
    let engine = stack.pool("engine").clone();
    assert_eq!(there(&engine, &lost).await, 0, "the database is as it was at the point");
    assert_eq!(there(&engine, &under_way).await, under_way.len());

    // Ten seconds pass: the programs of that time are no longer live.
    sqlx::query("UPDATE programs SET seen_at = seen_at - interval '10 seconds'")
        .execute(&engine)
        .await
        .unwrap();
    let looked = printed(&restore(&stack, &restored, &["--dry-run"]));
    assert_eq!((&looked["epoch"], &looked["liveSagas"]), (&0.into(), &under_way.len().into()), "{looked}");
    let done = printed(&restore(&stack, &restored, &[]));
    let epoch = done["epoch"].as_u64().unwrap();
    assert!(done["epochBefore"] == 0 && epoch > 200_000_000, "seconds since 2020: {done}");
    assert!(done["newestChange"].is_string(), "{done}");

    for process in &mut all {
        process.kill_and_restart(&stack);
    }
    for process in &all {
        process.ready().await;
    }
    // The replies of the lost future arrive once more: those of orders that are lost, and of orders that are under way
    // again.
    let sink = KafkaSink::new(&KafkaSettings::new(stack.broker.bootstrap_servers())).unwrap();
    sink.send(replies.iter().map(again).collect()).await.unwrap();

    // What exists ends as before; workers answer what they have done already.
    for id in kept.iter().chain(&under_way) {
        api.becomes(id, "FULFILLED").await;
    }
    books::settle(&stack).await;
    let expected: BTreeSet<(Uuid, Uuid)> = replies
        .iter()
        .filter_map(|message| wire::reply(&message.bytes).ok())
        .filter(|reply| reply.outcome == Outcome::Succeeded && lost_sagas.contains(&reply.saga_id))
        .map(|reply: Reply| (reply.saga_id, reply.command_id))
        .collect();
    assert_eq!(expected.len(), 4 * lost.len(), "reserve, pay, ship and take of each");
    let strays = eventually("the effects of lost orders are listed", LONG, || async {
        let strays: Vec<(Uuid, Uuid)> =
            sqlx::query_as("SELECT saga_id, command_id FROM strays").fetch_all(&engine).await.unwrap();
        (strays.len() >= expected.len()).then_some(strays)
    })
    .await;
    assert_eq!(BTreeSet::from_iter(strays), expected);
    let report = proof::report(&stack.sources(), &Ledger::default()).await.unwrap();
    // The embedded broker has no transactions of its own that would keep domain events.
    let violations: i64 =
        report.lines.iter().filter(|line| line.number != 18).map(|line| line.violations).sum();
    assert_eq!(violations, 0, "{report}");

    // A reader sees an order's events of the new history beside those of the lost one, each under an id of its own.
    let saga = sagas_of(&engine, &under_way[..1]).await.pop_first().unwrap();
    let paid: BTreeMap<String, String> = events(&stack, "order.paid", saga).await;
    let ids: Vec<&str> = paid.keys().map(String::as_str).collect();
    let of_epoch = format!(".{epoch}");
    let (new, old): (Vec<&str>, Vec<&str>) =
        ids.iter().partition(|id| id.split('/').nth(1).is_some_and(|revision| revision.ends_with(&of_epoch)));
    let ([old], [new]) = (&old[..], &new[..]) else { panic!("{ids:?}") };
    assert_eq!(paid[*old], paid[*new], "the sequence goes on from the restored state");

    // A program that outlives a restore ends by itself.
    sqlx::query("SELECT raise_epoch()").execute(&engine).await.unwrap();
    for process in all.iter_mut().filter(|process| ["api", "engine"].contains(&process.role.as_str())) {
        assert_eq!(process.ended().await.code(), Some(1), "{}", process.role);
    }
    drop(all);
    engine.close().await;
    restored.stop().await;
    std::fs::remove_dir_all(backup).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_refused_where_there_is_no_deployment() {
    let data = tempfile::tempdir().unwrap();
    let server = Postgres::start(PostgresOptions::new(data.path())).await.unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_amends"));
    command.args(["restore"]).env_clear().env("DATABASE_URL", server.url("postgres"));
    let output = command.env("AMENDS_START_TIMEOUT", "90s").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("amends_engine"), "{said}");
}

/// Has the server archive its log from now on; returns where.
async fn archive_log(stack: &Stack) -> PathBuf {
    let server = stack.server.as_ref().unwrap();
    let archive = server.directory().join("archive");
    let command = format!("mkdir -p {0} && cp %p {0}/%f", archive.display());
    let pool = stack.pool("engine");
    sqlx::raw_sql(AssertSqlSafe(format!("ALTER SYSTEM SET archive_command = '{command}'")))
        .execute(pool)
        .await
        .unwrap();
    sqlx::query("SELECT pg_reload_conf()").execute(pool).await.unwrap();
    archive
}

/// Waits until everything up to now is archived.
async fn archived(pool: &PgPool, archive: &Path) {
    let segment: String =
        sqlx::query_scalar("SELECT pg_walfile_name(pg_switch_wal())").fetch_one(pool).await.unwrap();
    eventually("the log is archived", LONG, || async {
        let last: Option<String> = sqlx::query_scalar("SELECT last_archived_wal FROM pg_stat_archiver")
            .fetch_one(pool)
            .await
            .unwrap();
        last.is_some_and(|last| last >= segment).then_some(())
    })
    .await;
    assert!(archive.is_dir());
}

/// Takes a base backup of a server; returns the directory of a cluster with it.
pub fn back_up(server: &Postgres) -> PathBuf {
    let backup = server.directory().with_extension("restored");
    std::fs::create_dir(&backup).unwrap();
    let taken = Command::new("pg_basebackup")
        .args(["-c", "fast", "-X", "stream", "-D"])
        .arg(backup.join("cluster"))
        .args(["-d", &server.url("postgres")])
        .output()
        .unwrap();
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    backup
}

/// Recovers a backup to the restore point, as a server of its own.
async fn recover(server: &Postgres, backup: &Path, archive: &Path) -> Postgres {
    let password = server.directory().join("password");
    std::fs::copy(&password, backup.join("password")).unwrap();
    std::fs::write(backup.join("cluster/recovery.signal"), "").unwrap();
    // A server that was started by root runs as another user.
    let owned =
        Command::new("chown").arg("-R").arg("--reference").arg(&password).arg(backup).status().unwrap();
    assert!(owned.success());
    let mut options = PostgresOptions::new(backup);
    let set = |key: &str, value: String| (key.to_owned(), value);
    options.settings = vec![
        set("restore_command", format!("cp {}/%f %p", archive.display())),
        set("recovery_target_name", RESTORE_POINT.to_owned()),
        set("recovery_target_action", "promote".to_owned()),
    ];
    let restored = Postgres::start(options).await.unwrap();
    let pool = sqlx::postgres::PgPoolOptions::new().connect_lazy(&restored.url("postgres")).unwrap();
    eventually("the recovery is over", LONG, || async {
        let recovers: bool =
            sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&pool).await.unwrap_or(true);
        (!recovers).then_some(())
    })
    .await;
    pool.close().await;
    restored
}

/// Runs `amends restore` on a server.
fn restore(stack: &Stack, server: &Postgres, options: &[&str]) -> Output {
    let arguments = [&["restore", "--output", "json"], options].concat();
    stack.output(&arguments, &[("DATABASE_URL", &server.url("postgres"))])
}

fn printed(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Places orders and waits until they are fulfilled; returns their ids.
pub async fn fulfilled(api: &Client, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(api.place(&order("mug", 1, "card_approved", "AT")).await);
    }
    for id in &ids {
        api.becomes(id, "FULFILLED").await;
    }
    ids
}

pub async fn sagas_of(engine: &PgPool, orders: &[String]) -> BTreeSet<Uuid> {
    let sagas: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM sagas WHERE business_key = ANY($1)")
        .bind(orders)
        .fetch_all(engine)
        .await
        .unwrap();
    BTreeSet::from_iter(sagas)
}

/// Returns how many of these orders exist.
async fn there(engine: &PgPool, orders: &[String]) -> usize {
    sagas_of(engine, orders).await.len()
}

/// Reads all messages that a topic has now.
pub async fn read_all(stack: &Stack, topic: &str) -> Vec<Inbound> {
    let broker = Admin::new(stack.broker.bootstrap_servers().parse().unwrap()).unwrap();
    let there: i64 = broker.lengths(topic).await.unwrap().iter().sum();
    let settings = KafkaSettings::new(stack.broker.bootstrap_servers());
    let mut source =
        KafkaSource::subscribe(&settings, &format!("reader-{}", Uuid::now_v7()), &[topic]).unwrap();
    let mut messages = Vec::new();
    let reading = async {
        while messages.len() < usize::try_from(there).unwrap() {
            messages.extend(source.receive(10_000, LONG).await.unwrap().messages);
        }
    };
    let is_read = timeout(LONG, reading).await.is_ok();
    assert!(is_read, "{} of {there} messages of {topic}", messages.len());
    messages
}

/// Returns the message once more.
pub fn again(message: &Inbound) -> Outbound {
    let reply = wire::reply(&message.bytes).unwrap();
    Outbound {
        topic: "saga.replies".to_owned(),
        placement: Placement::Slot(reply.slot),
        key: reply.saga_id,
        traceparent: None,
        bytes: message.bytes.clone(),
    }
}

/// Reads the ids of a saga's events of a type, once two are published, with their sequence.
async fn events(stack: &Stack, topic: &str, saga: Uuid) -> BTreeMap<String, String> {
    eventually("the events are published", LONG, || async {
        let events = read_all(stack, topic).await;
        let events = events.iter().map(|message| serde_json::from_slice::<Value>(&message.bytes).unwrap());
        let ids: BTreeMap<String, String> = events
            .filter(|event| event["data"]["sagaId"] == saga.to_string())
            .map(|event| (event["id"].as_str().unwrap().to_owned(), event["sequence"].to_string()))
            .collect();
        (ids.len() >= 2).then_some(ids)
    })
    .await
}
