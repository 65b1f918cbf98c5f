//! `PgSagaStore` passes the conformance suite with many homes too, and each row is in its saga's home.

mod support;

use std::{collections::BTreeSet, time::Duration};

use amends_engine::{
    core::CORE_VERSION,
    port::{Error, SagaStore},
};
use amends_postgres::{
    Homes,
    admin::{Admin, Filter},
    conformance::{deferred_reply, deferred_scan, known, moved},
    events::EventLog,
    exposure::{ExposureSurvey, Held},
    retention::History,
    upkeep::{Survey, Upkeep, Walk},
};
use amends_protocol::id;
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

/// Lets every statement fail that reads or writes a saga, or stores a reply, of home 1.
async fn home_1_is_away(world: &Postgres) {
    let away = "CREATE FUNCTION answers(home smallint) RETURNS boolean LANGUAGE plpgsql AS $$
                BEGIN
                    IF home = 1 THEN RAISE EXCEPTION 'home 1 is away' USING ERRCODE = '08006'; END IF;
                    RETURN true;
                END $$;
                ALTER TABLE sagas ENABLE ROW LEVEL SECURITY;
                CREATE POLICY answers ON sagas USING (answers(home)) WITH CHECK (answers(home));
                ALTER TABLE deferred_replies ENABLE ROW LEVEL SECURITY;
                CREATE POLICY answers ON deferred_replies USING (answers(home)) WITH CHECK (answers(home))";
    sqlx::raw_sql(away).execute(world.owner()).await.unwrap();
}

async fn home_1_is_back(world: &Postgres) {
    let back = "ALTER TABLE sagas DISABLE ROW LEVEL SECURITY;
                ALTER TABLE deferred_replies DISABLE ROW LEVEL SECURITY";
    sqlx::raw_sql(back).execute(world.owner()).await.unwrap();
}

#[tokio::test]
async fn a_home_that_is_away_is_reported_and_the_others_are_read_and_written() {
    let world = many_homes().await;
    let sagas = [world.errand(0).await, world.errand(1).await, world.errand(49).await, world.errand(2).await];
    let ids = sagas.each_ref().map(|saga| saga.id);
    home_1_is_away(&world).await;

    let loaded = world.store.load(&ids).await.unwrap();
    let read: BTreeSet<Uuid> = loaded.sagas.iter().map(|saga| saga.id).collect();
    assert_eq!(read, BTreeSet::from([ids[0], ids[3]]));
    assert_eq!(BTreeSet::from_iter(loaded.unreachable), BTreeSet::from([ids[1], ids[2]]));
    let writes = sagas.each_ref().map(|saga| moved(saga, 1, loaded.now));
    let committed = world.store.commit(&writes).await.unwrap();
    let written: BTreeSet<Uuid> = committed.written.iter().map(|inputs| inputs.saga_id).collect();
    assert_eq!(written, read);
    let [failed] = committed.failed.as_slice() else { panic!("{:?}", committed.failed) };
    assert_eq!(BTreeSet::from_iter(failed.sagas.clone()), BTreeSet::from([ids[1], ids[2]]));
    assert!(matches!(failed.error, Error::Unavailable(_)), "{:?}", failed.error);

    let alone = world.store.load(&[ids[1]]).await.unwrap();
    assert_eq!((alone.sagas, alone.unreachable), (vec![], vec![ids[1]]));
    assert_eq!(world.store.commit(&writes[1..2]).await.unwrap().failed.len(), 1);
    home_1_is_back(&world).await;
    let revisions: Vec<u32> =
        world.store.load(&ids[1..3]).await.unwrap().sagas.iter().map(|s| s.revision).collect();
    assert_eq!(revisions, [1, 1]);
}

#[tokio::test]
async fn a_reply_that_its_home_does_not_take_is_kept_in_another_and_forgotten_there() {
    let world = many_homes().await;
    let saga = id::at_slot(Uuid::now_v7(), 1);
    let reply = deferred_reply(saga, 1, CORE_VERSION, Duration::ZERO);
    home_1_is_away(&world).await;
    world.store.defer(std::slice::from_ref(&reply)).await.unwrap();
    let found = world.store.deferred(&deferred_scan(&[1])).await.unwrap();
    assert_eq!(found, [(reply.id(), reply.message.clone())]);
    home_1_is_back(&world).await;
    world.store.forget_deferred(&[reply.id()]).await.unwrap();
    assert_eq!(world.store.deferred(&deferred_scan(&[1])).await.unwrap(), []);
}

#[tokio::test]
async fn a_home_that_is_away_keeps_no_other_from_its_upkeep() {
    let world = many_homes().await;
    let ids = [world.errand(0).await, world.errand(1).await, world.errand(2).await].map(|saga| saga.id);
    let holding = r#"{"commands": [{"held": [{"kind": "money", "unit": "EUR", "amount": 500}]}]}"#;
    let change = "UPDATE sagas SET wake_at = NULL, state = $1";
    sqlx::query(change).bind(holding).execute(world.owner()).await.unwrap();
    home_1_is_away(&world).await;
    let upkeep = Upkeep::new(world.store.database().clone());

    assert_eq!(upkeep.sweep_missed().await.unwrap(), [ids[0], ids[2]]);
    let (mut walk, mut marked) = (Walk::default(), Vec::new());
    for _home in 0..3 {
        marked.extend(upkeep.mark_stuck(Duration::ZERO, &mut walk).await.unwrap());
    }
    assert_eq!(marked, [ids[0], ids[2]]);
    let mut survey = Survey::default();
    let counts = loop {
        if let Some(counts) = upkeep.count_some(&mut survey).await.unwrap() {
            break counts;
        }
    };
    assert_eq!(counts.sagas.iter().map(|count| (count.sagas, count.stuck)).collect::<Vec<_>>(), [(2, 2)]);
    let mut survey = ExposureSurvey::default();
    let held = loop {
        if let Some(held) = upkeep.add_up_some(&mut survey, "money").await.unwrap() {
            break held;
        }
    };
    assert_eq!(
        held.iter().map(|Held { unit, amount, .. }| (unit.as_str(), *amount)).collect::<Vec<_>>(),
        [("EUR", 1000)]
    );
}

#[tokio::test]
async fn a_home_that_is_away_keeps_no_other_from_forgetting_what_outlived_its_month() {
    let world = many_homes().await;
    home_1_is_away(&world).await;
    let noted = "CREATE TABLE asked (home smallint);
                 CREATE OR REPLACE FUNCTION forget_leftovers(of_home smallint, what text, retention interval, after uuid,
                                                             OUT looked_at bigint, OUT reached uuid, OUT gone bigint)
                 LANGUAGE plpgsql SECURITY DEFINER AS $$
                 BEGIN
                     PERFORM answers(of_home);
                     INSERT INTO asked VALUES (of_home);
                     gone := 1;
                 END $$";
    sqlx::raw_sql(noted).execute(world.owner()).await.unwrap();
    let upkeep = Upkeep::new(world.store.database().clone());
    let (mut walk, mut gone) = (Walk::default(), Vec::new());
    for _home in 0..3 {
        let retention = Duration::from_secs(400 * 24 * 3600);
        gone.push(upkeep.forget_leftovers(History::Sagas, retention, &mut walk).await.unwrap());
    }
    let asked: Vec<i16> =
        sqlx::query_scalar("SELECT home FROM asked").fetch_all(world.owner()).await.unwrap();
    assert_eq!((gone, asked), (vec![1, 0, 1], vec![0, 2]));
}

#[tokio::test]
async fn while_no_home_answers_nothing_is_counted_as_if_there_were_no_sagas() {
    let world = world_with(Homes::new(2).unwrap()).await;
    for slot in [0, 1] {
        world.errand(slot).await;
    }
    home_1_is_away(&world).await;
    let none = "CREATE OR REPLACE FUNCTION answers(home smallint) RETURNS boolean LANGUAGE plpgsql AS $$
                BEGIN RAISE EXCEPTION 'no home answers' USING ERRCODE = '08006'; END $$";
    sqlx::raw_sql(none).execute(world.owner()).await.unwrap();
    let upkeep = Upkeep::new(world.store.database().clone());
    let (mut survey, mut money) = (Survey::default(), ExposureSurvey::default());
    for _home in 0..2 {
        assert_eq!(upkeep.count_some(&mut survey).await.unwrap(), None);
        assert_eq!(upkeep.add_up_some(&mut money, "money").await.unwrap(), None);
    }
    home_1_is_back(&world).await;
    let counts = upkeep.count_some(&mut survey).await.unwrap().unwrap();
    assert_eq!(counts.sagas.iter().map(|count| count.sagas).collect::<Vec<_>>(), [2]);
    assert_eq!(upkeep.add_up_some(&mut money, "money").await.unwrap(), Some(vec![]));
}
