//! `PgSagaStore` passes the conformance suite with many homes too, and each row is in its saga's home.

mod support;

use amends_engine::port::SagaStore;
use amends_postgres::{
    Homes,
    admin::{Admin, Filter},
    conformance::known,
    events::EventLog,
};
use support::{Postgres, world_with};
use uuid::Uuid;

fn many() -> Homes {
    Homes::new(48).unwrap()
}

async fn many_homes() -> Postgres {
    world_with(many()).await
}

amends_postgres::conformance!(many_homes);

#[tokio::test]
async fn a_batch_of_many_homes_is_read_back_whole_and_each_row_is_in_its_sagas_home() {
    let world = many_homes().await;
    let mut sagas = Vec::new();
    for slot in [0, 7, 47, 48, 1023] {
        sagas.push(world.errand(slot).await);
    }
    let ids: Vec<Uuid> = sagas.iter().map(|saga| saga.id).collect();
    assert_eq!(world.store.load(&ids).await.unwrap().sagas.len(), 5);
    assert_eq!(world.store.inputs(&ids).await.unwrap().len(), 5);

    for table in ["sagas", "timeline"] {
        let homes: Vec<i16> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT home FROM {table} ORDER BY slot")))
                .fetch_all(world.owner())
                .await
                .unwrap();
        assert_eq!(homes, [0, 7, 47, 0, 15], "{table}");
    }

    let listed = Admin::new(world.store.database().clone())
        .list(&Filter { limit: 3, ..Filter::default() })
        .await
        .unwrap();
    let mut newest = ids.clone();
    newest.sort_unstable_by(|a, b| b.cmp(a));
    newest.truncate(3);
    assert_eq!(
        listed.items.iter().map(|item| item.id).collect::<Vec<_>>(),
        newest,
        "newest first, over all homes"
    );

    let log = EventLog::new(world.store.database().clone());
    let read = log.unpublished(&[(0, 0), (7, 0), (48, 0), (1023, 0)], 10, &known()).await.unwrap();
    let read: Vec<Uuid> = read.entries.iter().map(|entry| entry.saga_id).collect();
    assert_eq!(read, [ids[0], ids[1], ids[3], ids[4]]);
}
