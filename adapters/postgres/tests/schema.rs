//! Permissions, versions, and the deployment's row.

mod support;

use std::time::Duration;

use amends_pool::{check, is_at};
use amends_postgres::{
    Homes, MIGRATOR,
    deployment::{self, deployment, ensure_deployment},
    keys::{self, Rotation, Stage, StoredKey},
};
use sqlx::AssertSqlSafe;
use support::{ON_THE_COORDINATOR, connect, world};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(10);

async fn is_denied(pool: &amends_pool::Pool, sql: &str) -> bool {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await;
    done.is_err_and(|error| error.to_string().contains("permission denied"))
}

#[tokio::test]
async fn the_engine_cannot_rewrite_history() {
    let world = world().await;
    world.errand(1).await;
    let partition: String = sqlx::query_scalar("SELECT tableoid::regclass::text FROM timeline")
        .fetch_one(world.owner())
        .await
        .unwrap();
    for table in ["timeline", partition.as_str(), "strays"] {
        for sql in ["DELETE FROM {}", "UPDATE {} SET saga_id = saga_id", "TRUNCATE {}"] {
            let sql = sql.replace("{}", table);
            assert!(is_denied(&world.pool(), &sql).await, "{sql}");
        }
    }
    for sql in [
        "DELETE FROM sagas",
        "DELETE FROM odd_replies",
        "UPDATE sagas SET id = id",
        "UPDATE sagas SET slot = 0",
        "UPDATE sagas SET business_key = ''",
        "DELETE FROM orders",
        "UPDATE orders SET total = 0",
        "UPDATE deployment SET epoch = 9",
        "DROP TABLE timeline",
        "SELECT setval('timeline_position', 1)",
        "DELETE FROM _sqlx_migrations",
    ] {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&world.pool()).await.map(drop);
        let said = done.unwrap_err().to_string();
        assert!(said.contains("permission denied") || said.contains("must be owner"), "{sql}: {said}");
    }
}

#[tokio::test]
async fn nobody_else_may_make_partitions() {
    let world = world().await;
    amends_testkit::login_role("amends_inventory").await;
    let inventory = connect(&world.database.role_url("amends_inventory"));
    assert!(is_denied(&inventory, "SELECT ensure_partitions(1)").await);
    assert!(is_denied(&inventory, "SELECT FROM orders").await);
}

#[tokio::test]
async fn a_migrated_database_is_current_for_the_engine() {
    let world = world().await;
    check(&world.pool(), PATIENCE * 6).await.unwrap();
    is_at(&world.pool(), &MIGRATOR).await.unwrap();
}

/// A table that a migration adds would otherwise be forgotten on a Citus, and nobody would notice without one.
#[tokio::test]
async fn each_table_has_its_place_on_a_citus() {
    let world = world().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class
         WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition",
    )
    .fetch_all(world.owner())
    .await
    .unwrap();
    let distribution = include_str!("../../../migrations/citus/0003_distribution.sql");
    for table in tables {
        let is_placed = distribution.contains(&format!("'{table}'"));
        let stays = ON_THE_COORDINATOR.contains(&table.as_str());
        assert!(
            is_placed != stays,
            "{table}: named in 0003_distribution.sql is {is_placed}, among the others {stays}"
        );
    }
}

#[tokio::test]
async fn an_older_a_newer_and_another_schema_are_told_apart() {
    let world = world().await;
    let migrations = |sql: &'static str| {
        let owner = world.owner();
        async move { sqlx::query(sql).execute(owner).await.unwrap() }
    };
    // A program with the previous schema runs beside the next one, unless the next schema forbids it.
    migrations(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9001, 'of a newer program', true, '', 0)",
    )
    .await;
    is_at(&world.pool(), &MIGRATOR).await.unwrap();
    migrations("UPDATE schema_compatibility SET compatible_from = 9001").await;
    assert!(matches!(is_at(&world.pool(), &MIGRATOR).await, Err(amends_pool::Error::Newer(9001))));
    migrations("DELETE FROM _sqlx_migrations WHERE version = 9001").await;
    migrations("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 1").await;
    assert!(matches!(is_at(&world.pool(), &MIGRATOR).await, Err(amends_pool::Error::Different(1))));
    migrations("DELETE FROM _sqlx_migrations").await;
    assert!(matches!(is_at(&world.pool(), &MIGRATOR).await, Err(amends_pool::Error::Older)));
    migrations("DROP TABLE _sqlx_migrations").await;
    assert!(matches!(is_at(&world.pool(), &MIGRATOR).await, Err(amends_pool::Error::Older)));
}

#[tokio::test]
async fn the_deployments_key_is_made_once() {
    let world = world().await;
    assert!(matches!(deployment(&world.pool()).await, Err(deployment::Error::Missing)));
    assert!(matches!(
        ensure_deployment(world.owner(), "short", Homes::ONE).await,
        Err(deployment::Error::Key(_))
    ));
    let (first, second) = ("ab".repeat(32), "cd".repeat(32));
    ensure_deployment(world.owner(), &first, Homes::ONE).await.unwrap();
    ensure_deployment(world.owner(), &second, Homes::ONE).await.unwrap();
    let kept = deployment(&world.pool()).await.unwrap();
    let command = Uuid::now_v7();
    let expected = amends_protocol::TokenKey::from_hex(&first).unwrap().token(command);
    assert_eq!((kept.epoch, kept.key.token(command)), (0, expected));
}

#[tokio::test]
async fn a_reply_key_is_believed_a_rotation_before_it_signs_and_a_rotation_after() {
    let world = world().await;
    let [first, second, third] = ["ab", "cd", "ef"].map(|byte| byte.repeat(32));
    ensure_deployment(world.owner(), &first, Homes::ONE).await.unwrap();
    keys::change_reply_key(world.owner(), Rotation::Keep, &second).await.unwrap();
    let before = deployment(&world.pool()).await.unwrap().key;
    keys::change_reply_key(world.owner(), Rotation::Rotate, &third).await.unwrap();
    let after = deployment(&world.pool()).await.unwrap().key;
    let command = Uuid::now_v7();
    assert_ne!(before.token(command), after.token(command));
    assert!(before.verifies(command, &after.token(command)), "who has not been started again");
    assert!(after.verifies(command, &before.token(command)), "and what it has sent");
    let stranger = amends_protocol::TokenKey::from_hex(&"12".repeat(32)).unwrap();
    assert!(!after.verifies(command, &stranger.token(command)));
}

#[tokio::test]
async fn command_keys_are_signed_with_in_turn_and_only_their_owner_changes_them() {
    let world = world().await;
    let mut count = 0;
    let mut draw = || {
        count += 1;
        StoredKey { stage: Stage::Next, id: format!("k{count}"), hex: format!("{count:02x}").repeat(32) }
    };
    let first = keys::change_command_keys(world.owner(), "payment", Rotation::Keep, &mut draw).await.unwrap();
    assert!(
        keys::signing_keys(world.owner()).await.unwrap().is_empty(),
        "not before the participant has them"
    );
    first.commit().await.unwrap();
    assert_eq!(keys::signing_keys(&world.pool()).await.unwrap()["payment"].id(), "k1");
    let second =
        keys::change_command_keys(world.owner(), "payment", Rotation::Rotate, &mut draw).await.unwrap();
    assert_eq!(second.keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["k1", "k2", "k3"]);
    second.commit().await.unwrap();
    assert_eq!(keys::signing_keys(&world.pool()).await.unwrap()["payment"].id(), "k2");
    let forged =
        keys::change_command_keys(&world.pool(), "payment", Rotation::Rotate, &mut draw).await.unwrap();
    assert!(forged.commit().await.is_err(), "the service's role only reads");
}

#[tokio::test]
async fn a_start_without_a_database_gives_up() {
    assert!(matches!(amends_pool::connect("not a url", 1, "test"), Err(amends_pool::Error::Url(_))));
    let world = world().await;
    let wrong = world.database.role_url("amends_engine").replace(world.database.name(), "nowhere");
    assert!(matches!(check(&connect(&wrong), PATIENCE).await, Err(amends_pool::Error::Unreachable(_))));
}
