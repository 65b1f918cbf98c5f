//! `amends doctor`: a sound deployment is called sound, and what is wrong is named.

use std::process::Output;

use amends_testkit::eventually;
use serde_json::Value;

use crate::support::{AWAY, Broker, LONG, Stack, client::order, clients, load, on_apache};

on_apache!(a_deployment_at_work_is_sound_until_its_engine_is_gone_or_a_database_may_lose_commits);

/// What is found of a deployment with two processes of each role, among other things.
const SOUND: [&str; 3] =
    ["database engine: confirmed commits survive", "programs: 4", "lag of amends-payment: 0 messages"];

/// Runs the doctor; returns its status and what it found.
pub fn examined(stack: &Stack) -> (i32, Vec<Value>) {
    examined_with(stack, &[])
}

/// The same with further settings.
pub fn examined_with(stack: &Stack, settings: &[(&str, &str)]) -> (i32, Vec<Value>) {
    let Output { status, stdout, stderr } = stack.output(&["doctor", "--output", "json"], settings);
    let findings = serde_json::from_slice(&stdout);
    (status.code().unwrap(), findings.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&stderr))))
}

/// Returns `subject: found` of the findings with this grade.
pub fn of_grade(findings: &[Value], grade: &str) -> Vec<String> {
    let text = |finding: &Value| format!("{}: {}", finding["subject"], finding["found"]).replace('"', "");
    findings.iter().filter(|finding| finding["grade"] == grade).map(text).collect()
}

async fn a_deployment_at_work_is_sound_until_its_engine_is_gone_or_a_database_may_lose_commits(
    broker: Broker,
) {
    let data = tempfile::tempdir().unwrap();
    let stack = Stack::on_own_server(broker, data.path()).await;
    let all = stack.start_all().await;
    load::stock(&stack).await;
    let clients = clients(&all);
    let id = clients[0].place(&order("mug", 1, "card_approved", "AT")).await;
    clients[0].becomes(&id, "FULFILLED").await;
    // Programs announce themselves now and then, and the broker is told later what is settled.
    eventually("the doctor finds nothing wrong and everything sound", LONG, || async {
        let (status, findings) = examined(&stack);
        let sound = of_grade(&findings, "good");
        let is_whole = SOUND.iter().all(|part| sound.iter().any(|found| found.starts_with(part)));
        let flaws = ["wrong", "skipped"].map(|grade| of_grade(&findings, grade)).concat();
        println!("status {status}, flaws {flaws:?}, sound {sound:?}");
        (status == 0 && is_whole && flaws.is_empty()).then_some(())
    })
    .await;

    let payment = stack.pool("payment");
    sqlx::query("ALTER DATABASE amends_payment SET synchronous_commit = off").execute(payment).await.unwrap();
    // A program that could not announce itself in time is missed for a moment.
    eventually("the doctor finds this wrong and nothing else", LONG, || async {
        let (status, findings) = examined(&stack);
        let wrong = of_grade(&findings, "wrong");
        println!("status {status}, wrong {wrong:?}");
        let [one] = wrong.as_slice() else { return None };
        assert!(findings.iter().any(|finding| finding["grade"] == "wrong" && finding["advice"].is_string()));
        let is_named = one.starts_with("database payment") && one.contains("synchronous_commit is off");
        (status == 1 && is_named).then_some(())
    })
    .await;
    sqlx::query("ALTER DATABASE amends_payment RESET synchronous_commit").execute(payment).await.unwrap();

    drop(all);
    eventually("the doctor misses engines and apis", LONG, || async {
        let (status, findings) = examined(&stack);
        let misses =
            of_grade(&findings, "wrong").iter().any(|found| found.starts_with("programs: no engine"));
        (status == 1 && misses).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_or_may_lose_commits_is_wrong_and_changes_nothing() {
    let stack = Stack::embedded().await;
    // The tests' server does not sync.
    let (status, findings) = examined(&stack);
    let wrong = of_grade(&findings, "wrong");
    assert_eq!(status, 1);
    for name in ["engine", "inventory", "payment", "shipment", "notification"] {
        let lossy = format!("database {name}: confirmed commits can be lost in a crash: fsync is off");
        assert!(wrong.iter().any(|found| found.starts_with(&lossy)), "{name}: {wrong:?}");
    }
    let away = [
        ("KAFKA_BROKERS", "127.0.0.1:1"),
        ("AMENDS_PAYMENT_DATABASE_URL", "postgres://a:secret@127.0.0.1:1/b"),
        AWAY,
    ];
    let Output { status, stdout, .. } = stack.output(&["doctor"], &away);
    let text = String::from_utf8(stdout).unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    for part in ["WRONG    broker", "WRONG    database payment", " wrong, "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_a_login_role_lacks_is_named_with_the_statement_that_gives_it() {
    let stack = Stack::embedded().await;
    // Only databases are looked at.
    let settings = [AWAY, ("KAFKA_BROKERS", "127.0.0.1:1")];
    let lacks = |findings: &[Value]| {
        let wrong = of_grade(findings, "wrong").into_iter();
        wrong
            .filter(|found| found.contains(" lacks rights: ") || found.contains("denied"))
            .collect::<Vec<_>>()
    };
    let whole = |findings: &[Value]| {
        let good = of_grade(findings, "good").into_iter();
        good.filter(|found| found.ends_with(" has every right that it needs")).count()
    };
    let (_, findings) = examined_with(&stack, &settings);
    assert_eq!((lacks(&findings), whole(&findings)), (Vec::new(), 5), "{findings:?}");

    // What is asked at the start, what the doctor itself reads, and what only the program needs.
    for (database, right) in [
        ("engine", "SELECT ON TABLE sagas"),
        ("engine", "INSERT ON TABLE orders"),
        ("engine", "USAGE ON SEQUENCE timeline_position"),
        ("engine", "EXECUTE ON FUNCTION commit_sagas"),
        ("inventory", "UPDATE ON TABLE stock"),
        ("payment", "EXECUTE ON FUNCTION retire_month(interval)"),
        ("shipment", "SELECT ON TABLE _sqlx_migrations"),
        ("notification", "UPDATE (numbered) ON TABLE notif_sent"),
    ] {
        let run = async |sql: String| {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(stack.pool(database)).await.unwrap();
        };
        run(format!("REVOKE {right} FROM amends_{database}")).await;
        let (status, findings) = examined_with(&stack, &settings);
        let named = format!("database {database}: the login role amends_{database} lacks rights: {right}");
        assert_eq!((status, lacks(&findings)), (1, vec![named]), "{findings:?}");
        let advice = findings.iter().find_map(|finding| {
            let advice = finding["advice"].as_str()?;
            Some(advice.strip_prefix("As the tables' owner: ")?.to_owned())
        });
        run(advice.unwrap()).await;
    }
    let (_, findings) = examined_with(&stack, &settings);
    assert_eq!((lacks(&findings), whole(&findings)), (Vec::new(), 5), "{findings:?}");
}
