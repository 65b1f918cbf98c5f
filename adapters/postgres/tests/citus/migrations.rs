//! Databases that were distributed before: by an older release, with other homes, or beside a node that does not answer.

use std::{net::TcpListener, str::FromStr, time::Duration};

use amends_postgres::{
    Homes, MIGRATOR,
    citus::{Cluster, distribute, migrator},
    deployment::{self, check_homes, ensure_deployment, raise_epoch},
};
use sqlx::{migrate::Migrator, postgres::PgConnectOptions};

use crate::{
    ordinary_tables,
    support::{CITUS, ON_THE_COORDINATOR, citus, empty_on_citus},
};

/// The newest migration of the last release whose databases are brought up to date here: webhooks.
const DISTRIBUTED_AT: i64 = 9;

#[tokio::test]
async fn a_database_that_was_distributed_before_the_latest_migrations_is_brought_up_to_date() {
    let Some(_turn) = citus().await else { return };
    let server = PgConnectOptions::from_str(&std::env::var(CITUS).unwrap()).unwrap();
    let (_, owner) = empty_on_citus(&server, "amends_test_older").await;
    let older = MIGRATOR.iter().filter(|migration| migration.version <= DISTRIBUTED_AT).cloned().collect();
    let homes = Homes::new(4).unwrap();
    Migrator::with_migrations(older).run(&owner).await.unwrap();
    distribute(&owner, homes).await.unwrap();
    sqlx::query("INSERT INTO deployment (reply_key, homes) VALUES (repeat('7', 64), 4)")
        .execute(&owner)
        .await
        .unwrap();

    for _ in ["the first time", "again"] {
        migrator().run(&owner).await.unwrap();
        distribute(&owner, homes).await.unwrap();
        assert_eq!(ordinary_tables(&owner).await, ON_THE_COORDINATOR);
    }
    let found = ensure_deployment(&owner, &"8".repeat(64), homes).await.unwrap();
    assert_eq!((found.epoch, found.homes, found.is_suspended), (0, homes, false));
    assert_eq!(raise_epoch(&owner).await.unwrap(), 1);
    // Each node has the new functions and the new column.
    let nodes: Vec<(bool, String)> = sqlx::query_as(
        "SELECT success, result FROM run_command_on_all_nodes($$
             SELECT without_cancel_reason('x') || (SELECT is_suspended FROM deployment)
                    || (SELECT prosrc LIKE '%without_cancel_reason%' FROM pg_proc WHERE proname = 'erase_personal_data') $$)",
    )
    .fetch_all(&owner)
    .await
    .unwrap();
    assert!(
        nodes.len() >= 2 && nodes.iter().all(|node| *node == (true, "xfalsetrue".to_owned())),
        "{nodes:?}"
    );
}

#[tokio::test]
async fn the_homes_of_a_database_that_was_distributed_and_no_more_cannot_be_others() {
    let Some(_turn) = citus().await else { return };
    let server = PgConnectOptions::from_str(&std::env::var(CITUS).unwrap()).unwrap();
    let (_, owner) = empty_on_citus(&server, "amends_test_halfway").await;
    let homes = |count| Homes::new(count).unwrap();
    check_homes(&owner, homes(4)).await.unwrap();
    MIGRATOR.run(&owner).await.unwrap();
    check_homes(&owner, homes(4)).await.unwrap();
    distribute(&owner, homes(4)).await.unwrap();
    // As if `amends migrate` had ended here: the deployment has no row.
    for other in [homes(8), Homes::ONE] {
        let refused = check_homes(&owner, other).await;
        assert!(
            matches!(refused, Err(deployment::Error::OtherHomes { made: 4, asked }) if asked == other.count()),
            "{refused:?}"
        );
    }
    check_homes(&owner, homes(4)).await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_reached_and_does_not_answer_is_named() {
    let Some(_turn) = citus().await else { return };
    let server = PgConnectOptions::from_str(&std::env::var(CITUS).unwrap()).unwrap();
    let (_, owner) = empty_on_citus(&server, "amends_test_silent").await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let added = "INSERT INTO pg_dist_node (nodename, nodeport, groupid) VALUES ('127.0.0.1', $1, 99)";
    sqlx::query(added).bind(i32::from(port)).execute(&owner).await.unwrap();
    let refused = Cluster::of(&server.database("amends_test_silent"), Duration::from_secs(5)).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains(&format!("127.0.0.1:{port}")) && refused.contains("no answer within 5s"),
        "{refused}"
    );
}
