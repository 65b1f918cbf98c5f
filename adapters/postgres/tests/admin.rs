//! Reads for operators.

mod support;

use std::time::Duration;

use amends_engine::{
    core::{Saga, SagaOutcome, SagaState},
    port::{OddReason, OddReplies, OddReply, SagaStore},
};
use amends_postgres::{
    admin::{Admin, Filter, OfWorkflow},
    conformance::{World, moved},
    exposure::{EXPOSURE_LOOK, ExposureSurvey, Held},
    upkeep::{Count, Survey, Upkeep, Walk},
};
use amends_protocol::{Exposure, Reason};
use chrono::TimeDelta;
use support::{Postgres, world};
use uuid::Uuid;

async fn changed(world: &Postgres, change: impl FnOnce(&mut Saga)) -> Saga {
    let saga = world.errand(1).await;
    let mut write = moved(&saga, 1, saga.born_at);
    change(&mut write.saga);
    world.store().commit(std::slice::from_ref(&write)).await.unwrap();
    write.saga
}

/// Creates one saga in each state, in the order of [`STATES`].
async fn one_of_each(world: &Postgres) -> Vec<Saga> {
    vec![
        changed(world, |_| {}).await,
        changed(world, |saga| {
            saga.state.direction = amends_engine::core::Direction::Undoing;
            saga.heading_for = Some("CANCELLED".into());
            saga.reason = Some(Reason::new("changed_mind", ""));
        })
        .await,
        changed(world, |saga| {
            saga.parked = true;
            saga.live = false;
            saga.reason = Some(Reason::new("card_declined", ""));
            saga.state.commands[0].parked = Some(Reason::new("refund_refused", "the bank says no"));
        })
        .await,
        changed(world, |saga| {
            saga.live = false;
            saga.outcome = Some(SagaOutcome::Completed);
        })
        .await,
        changed(world, |saga| {
            saga.live = false;
            saga.outcome = Some(SagaOutcome::Undone);
            saga.step = "carry".into();
        })
        .await,
    ]
}

const STATES: [SagaState; 5] =
    [SagaState::Running, SagaState::Compensating, SagaState::Parked, SagaState::Completed, SagaState::Undone];

async fn listed(admin: &Admin, filter: Filter) -> Vec<Uuid> {
    let page = admin.list(&Filter { limit: 100, ..filter }).await.unwrap();
    assert_eq!(page.next, None);
    page.items.into_iter().map(|item| item.id).collect()
}

#[tokio::test]
async fn sagas_are_listed_by_state() {
    let world = world().await;
    let admin = Admin::new(world.pool());
    let sagas = one_of_each(&world).await;
    for (state, saga) in STATES.into_iter().zip(&sagas) {
        assert_eq!(saga.state(), state);
        let filter = Filter { states: vec![state], limit: 10, ..Filter::default() };
        let page = admin.list(&filter).await.unwrap();
        assert_eq!(
            page.items.iter().map(|item| (item.id, item.state)).collect::<Vec<_>>(),
            [(saga.id, state)]
        );
    }
    // An orphan makes an ended saga live again; its state does not change.
    let orphan = changed(&world, |saga| saga.outcome = Some(SagaOutcome::Undone)).await;
    let undone = Filter { states: vec![SagaState::Undone], ..Filter::default() };
    assert_eq!(listed(&admin, undone).await, [orphan.id, sagas[4].id]);
    let running = Filter { states: vec![SagaState::Running], ..Filter::default() };
    assert_eq!(listed(&admin, running).await, [sagas[0].id]);
}

#[tokio::test]
async fn what_is_undone_and_holds_something_is_listed() {
    let world = world().await;
    let admin = Admin::new(world.pool());
    one_of_each(&world).await;
    let holds = |saga: &mut Saga| {
        saga.outcome = Some(SagaOutcome::Undone);
        saga.state.commands[0].held = vec![Exposure::new("money_captured", "EUR", 2500)];
    };
    let late = changed(&world, holds).await;
    let parked = changed(&world, |saga| {
        holds(saga);
        (saga.parked, saga.live) = (true, false);
        saga.state.commands[0].parked = Some(Reason::new("exposure_not_netted", ""));
    })
    .await;
    // A saga going forward holds what it has.
    changed(&world, |saga| {
        holds(saga);
        saga.outcome = None;
    })
    .await;
    let holding = Filter { undone_holding: true, ..Filter::default() };
    assert_eq!(listed(&admin, holding.clone()).await, [parked.id, late.id]);
    let undone = Filter { states: vec![SagaState::Undone], ..holding };
    assert_eq!(listed(&admin, undone).await, [late.id]);
}

#[tokio::test]
async fn a_line_says_why() {
    let world = world().await;
    let admin = Admin::new(world.pool());
    let sagas = one_of_each(&world).await;
    let page = admin.list(&Filter { limit: 10, ..Filter::default() }).await.unwrap();
    let reason = |saga: &Saga| {
        let item = page.items.iter().find(|item| item.id == saga.id).unwrap();
        assert_eq!(
            (&item.business_key, &item.step, &item.label),
            (&saga.business_key, &saga.step, &saga.label)
        );
        assert_eq!((item.since, item.born_at, item.updated_at), (saga.since, saga.born_at, saga.born_at));
        item.reason.clone().map(|reason| reason.code)
    };
    assert_eq!(reason(&sagas[0]), None);
    assert_eq!(reason(&sagas[1]).as_deref(), Some("changed_mind"));
    assert_eq!(reason(&sagas[2]).as_deref(), Some("refund_refused"), "why it is parked, not why it failed");
}

#[tokio::test]
async fn sagas_are_listed_by_step_and_age() {
    let world = world().await;
    let admin = Admin::new(world.pool());
    let sagas = one_of_each(&world).await;
    let old = changed(&world, |saga| saga.since -= TimeDelta::hours(1)).await;
    let carried = |state: Option<SagaState>| Filter {
        steps: vec!["carry".into()],
        states: state.into_iter().collect(),
        ..Filter::default()
    };
    assert_eq!(listed(&admin, carried(Some(SagaState::Undone))).await, [sagas[4].id]);
    assert_eq!(listed(&admin, carried(None)).await, [] as [Uuid; 0], "what has ended is listed by its state");
    let carrying = changed(&world, |saga| saga.step = "carry".into()).await;
    assert_eq!(listed(&admin, carried(None)).await, [carrying.id]);
    let aged = Filter { older_than: Some(Duration::from_secs(1800)), ..Filter::default() };
    assert_eq!(listed(&admin, aged).await, [old.id]);
    let nowhere = Filter { steps: vec!["'; DROP TABLE sagas".into()], ..Filter::default() };
    assert_eq!(listed(&admin, nowhere).await.len(), 0);
}

#[tokio::test]
async fn several_values_of_a_field_are_an_or_and_several_fields_an_and() {
    let world = world().await;
    let admin = Admin::new(world.pool());
    let sagas = one_of_each(&world).await;
    let of = |states: &[SagaState]| Filter { states: states.to_vec(), ..Filter::default() };
    let (running, undone) = (of(&[SagaState::Running]), of(&[SagaState::Undone]));
    let both = of(&[SagaState::Running, SagaState::Undone]);
    let mut each = listed(&admin, running).await;
    each.extend(listed(&admin, undone.clone()).await);
    each.sort_by(|a, b| b.cmp(a));
    assert_eq!(listed(&admin, both.clone()).await, each);
    assert_eq!(admin.count(&both, 1_000).await.unwrap() as usize, each.len());
    assert_eq!(admin.count(&both, 1).await.unwrap(), 2, "one more than was asked for");

    let Some(row) = admin.list(&Filter { limit: 1, ..undone.clone() }).await.unwrap().items.pop() else {
        panic!("one is undone");
    };
    let labelled =
        |label: &str| Filter { labels: vec![label.to_owned(), "none".to_owned()], ..undone.clone() };
    assert_eq!(listed(&admin, labelled(&row.label)).await, [row.id]);
    assert_eq!(listed(&admin, labelled("other")).await, [] as [Uuid; 0]);
    let of_workflow = |version| Filter {
        workflows: vec![OfWorkflow { name: row.workflow.clone(), version }],
        ..Filter::default()
    };
    assert_eq!(listed(&admin, of_workflow(None)).await.len(), sagas.len());
    assert_eq!(listed(&admin, of_workflow(Some(row.workflow_version))).await.len(), sagas.len());
    assert_eq!(listed(&admin, of_workflow(Some(99))).await.len(), 0);
    let from = |at| Filter { born_after: at, born_before: None, ..undone.clone() };
    assert_eq!(listed(&admin, from(Some(row.born_at))).await, [row.id]);
    assert_eq!(listed(&admin, Filter { born_before: Some(row.born_at), ..undone.clone() }).await.len(), 0);
}

#[tokio::test]
async fn pages_follow_each_other_newest_first_without_gap_or_overlap() {
    let world = world().await;
    let admin = Admin::new(world.pool());
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.push(world.errand(1).await.id);
    }
    ids.sort_by(|a, b| b.cmp(a));
    let mut seen = Vec::new();
    let mut filter = Filter { limit: 3, ..Filter::default() };
    let mut pages = 0;
    loop {
        let page = admin.list(&filter).await.unwrap();
        pages += 1;
        seen.extend(page.items.iter().map(|item| item.id));
        match page.next {
            Some(next) => filter.after = Some(next),
            None => break,
        }
        // Sagas born meanwhile are newer, and shift no page.
        world.errand(1).await;
    }
    assert_eq!((seen, pages), (ids, 3));
}

#[tokio::test]
async fn one_saga_is_shown_with_everything() {
    let world = world().await;
    let admin = Admin::new(world.pool());
    let saga = changed(&world, |_| {}).await;
    let detail = admin.get(saga.id).await.unwrap().unwrap();
    assert_eq!(detail.saga, saga);
    assert_eq!(detail.timeline, world.timeline(saga.id).await);
    assert_eq!(detail.inputs, world.store().inputs(&[saga.id]).await.unwrap()[0]);
    assert_eq!((detail.stuck_at, detail.updated_at), (None, saga.born_at));
    assert!(detail.now > saga.born_at);
    assert_eq!(admin.get(Uuid::now_v7()).await.unwrap(), None);
}

#[tokio::test]
async fn a_note_of_odd_replies_waits_for_no_other_transaction() {
    let world = world().await;
    let (held, free) = (world.errand(1).await.id, world.errand(2).await.id);
    let odd = |saga_id, count| {
        let last = OddReply { topic: "saga.replies".into(), partition: 0, offset: 1, says: None };
        OddReplies { saga_id, reason: OddReason::Unreadable, count, last }
    };
    let store = world.store();
    store.note_odd(&[odd(held, 1), odd(free, 1)]).await.unwrap();
    let counts = async || {
        let rows = [world.odd_replies(held).await, world.odd_replies(free).await];
        rows.map(|rows| rows[0].count)
    };
    for sql in [
        "SELECT FROM odd_replies WHERE saga_id = $1 FOR UPDATE",
        "UPDATE odd_replies SET count = 9 WHERE saga_id = $1",
    ] {
        let mut forgotten = world.owner().begin().await.unwrap();
        sqlx::query(sql).bind(held).execute(&mut *forgotten).await.unwrap();
        store.note_odd(&[odd(held, 1), odd(free, 1)]).await.unwrap();
        forgotten.rollback().await.unwrap();
    }
    assert_eq!(counts().await, [1, 3], "what is held is left out");
    store.note_odd(&[odd(held, 1)]).await.unwrap();
    assert_eq!(counts().await, [2, 3]);
}

#[tokio::test]
async fn what_a_program_cannot_read_is_listed_all_the_same() {
    let world = world().await;
    let admin = Admin::new(world.pool());
    let saga = world.errand(1).await;
    sqlx::query("UPDATE sagas SET state = '{}'").execute(world.owner()).await.unwrap();
    assert_eq!(listed(&admin, Filter::default()).await, [saga.id]);
    let refused = admin.get(saga.id).await;
    assert!(matches!(refused, Err(amends_postgres::Error::Unreadable(_))), "{refused:?}");
}

#[tokio::test]
async fn whoever_has_waited_too_long_is_stuck_until_it_moves_on() {
    let world = world().await;
    let (admin, upkeep) = (Admin::new(world.pool()), Upkeep::new(world.pool()));
    one_of_each(&world).await;
    let saga = changed(&world, |saga| saga.since -= TimeDelta::minutes(10)).await;
    let five_minutes = Duration::from_secs(300);
    let walk = &mut Walk::default();
    assert_eq!(upkeep.mark_stuck(five_minutes, walk).await.unwrap(), [saga.id]);
    assert_eq!(upkeep.mark_stuck(five_minutes, walk).await.unwrap(), [] as [Uuid; 0], "once");
    let stuck = || Filter { stuck: Some(true), ..Filter::default() };
    assert_eq!(listed(&admin, stuck()).await, [saga.id]);
    assert_eq!(listed(&admin, Filter { stuck: Some(false), ..Filter::default() }).await.len(), 5);

    // A probe is no progress.
    let asked = moved(&saga, 1, saga.born_at);
    world.store().commit(std::slice::from_ref(&asked)).await.unwrap();
    assert_eq!(listed(&admin, stuck()).await, [saga.id]);
    let mut on = moved(&asked.saga, 1, saga.born_at);
    on.saga.step = "carry".into();
    world.store().commit(std::slice::from_ref(&on)).await.unwrap();
    assert_eq!(listed(&admin, stuck()).await.len(), 0);
}

#[tokio::test]
async fn what_has_not_ended_is_counted_by_state() {
    let world = world().await;
    let upkeep = Upkeep::new(world.pool());
    one_of_each(&world).await;
    // Parked while another command is outstanding; ended, and live because of an orphan.
    changed(&world, |saga| saga.parked = true).await;
    changed(&world, |saga| saga.outcome = Some(SagaOutcome::Completed)).await;
    changed(&world, |saga| saga.since -= TimeDelta::minutes(10)).await;
    upkeep.mark_stuck(Duration::from_secs(300), &mut Walk::default()).await.unwrap();
    let count = |state, sagas, stuck| Count { workflow: "errand".into(), state, sagas, stuck };
    let expected = [
        count(SagaState::Compensating, 1, 0),
        count(SagaState::Parked, 2, 0),
        count(SagaState::Running, 2, 1),
    ];
    let counts = upkeep.count_some(&mut Survey::default()).await.unwrap().unwrap();
    assert_eq!((counts.sagas.as_slice(), counts.orphans), (expected.as_slice(), 1));
    assert_eq!(counts.labels.values().sum::<u64>(), 5, "{:?}", counts.labels);
}

#[tokio::test]
async fn a_list_by_step_or_age_alone_reads_no_history() {
    let world = world().await;
    let template = changed(&world, |saga| saga.since -= TimeDelta::hours(1)).await;
    world.copies(&template, 3_000, "live = false, outcome = 'completed'").await;
    let admin = Admin::new(world.pool());
    let at_fetch = Filter { steps: vec!["fetch".into()], ..Filter::default() };
    assert_eq!(listed(&admin, at_fetch).await, [template.id]);
    let aged = Filter { older_than: Some(Duration::from_secs(60)), ..Filter::default() };
    assert_eq!(listed(&admin, aged).await, [template.id]);
    let read = world.counted("seq_tup_read + idx_tup_fetch", "sagas_").await;
    assert!(read < 1_000, "{read} rows were read");
}

#[tokio::test]
async fn what_all_sagas_hold_is_added_up_by_state_and_currency_and_stock_is_left_out() {
    let world = world().await;
    let holding = |unit: &str, amount| {
        vec![Exposure::new("money_captured", unit, amount), Exposure::new("stock_reserved", "mug", 7)]
    };
    changed(&world, |saga| saga.state.commands[0].held = holding("EUR", 2_500)).await;
    changed(&world, |saga| saga.state.commands[0].held = holding("EUR", 1_000)).await;
    let parked = changed(&world, |saga| {
        saga.state.commands[0].held = holding("JPY", 40);
        (saga.parked, saga.live) = (true, false);
    })
    .await;
    // Ended: what it holds is settled.
    changed(&world, |saga| {
        saga.state.commands[0].held = holding("EUR", 9_999);
        (saga.outcome, saga.live) = (Some(SagaOutcome::Completed), false);
    })
    .await;
    let more = i32::try_from(EXPOSURE_LOOK).unwrap();
    world.copies(&parked, more, "live = false").await;
    let (upkeep, mut survey) = (Upkeep::new(world.pool()), ExposureSurvey::default());
    assert_eq!(upkeep.add_up_some(&mut survey, "money_captured").await.unwrap(), None, "there are more");
    let held = upkeep.add_up_some(&mut survey, "money_captured").await.unwrap().unwrap();
    let sum = |state, unit: &str, amount| Held { state, unit: unit.to_owned(), amount };
    let copies = i64::from(EXPOSURE_LOOK);
    assert_eq!(
        held,
        [sum(SagaState::Parked, "JPY", 40 * (copies + 1)), sum(SagaState::Running, "EUR", 3_500)]
    );
}
