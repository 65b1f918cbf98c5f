//! Sagas that are due, in flight or asleep, as every store must find them.

use super::*;

/// By `wake_at`, across slots.
pub async fn the_longest_overdue_come_first_and_no_more_than_asked_for(world: &impl World) {
    let mut by_age = BTreeMap::new();
    for (slot, seconds) in [(1, 30), (2, 50), (1, 10), (3, 40), (2, 20)] {
        let saga =
            stored(world, slot, |saga, now| saga.wake_at = Some(now - TimeDelta::seconds(seconds))).await;
        by_age.insert(-seconds, saga.id);
    }
    let oldest_first: Vec<Uuid> = by_age.into_values().collect();
    assert_eq!(due(world, &scan(&[1, 2, 3])).await, oldest_first);
    assert_eq!(due(world, &DueScan { limit: 2, ..scan(&[1, 2, 3]) }).await, oldest_first[..2]);
    let lately = DueScan { not_before: Some(now(world).await - TimeDelta::seconds(35)), ..scan(&[1, 2, 3]) };
    assert_eq!(due(world, &lately).await, oldest_first[2..]);
    let long = DueScan { overdue: Duration::from_secs(35), ..scan(&[1, 2, 3]) };
    assert_eq!(due(world, &long).await, oldest_first[..2]);
}

/// Sagas that wait for an absent participant are scanned separately.
pub async fn what_is_due_at_some_steps_is_found_apart_from_the_rest(world: &impl World) {
    let mut by_age = Vec::new();
    for (step, seconds) in [("pay", 30), ("ship", 20), ("pay", 10)] {
        let due = |saga: &mut Saga, now| {
            step.clone_into(&mut saga.step);
            saga.wake_at = Some(now - TimeDelta::seconds(seconds));
        };
        by_age.push(stored(world, 1, due).await.id);
    }
    let of = |share| DueScan { share, ..scan(&[1]) };
    assert_eq!(due(world, &of(DueShare::All)).await, by_age);
    assert_eq!(due(world, &of(DueShare::At(vec!["pay", "take"]))).await, [by_age[0], by_age[2]]);
    assert_eq!(due(world, &of(DueShare::NotAt(vec!["pay", "take"]))).await, [by_age[1]]);
    assert!(due(world, &of(DueShare::At(Vec::new()))).await.is_empty());
}

/// Scanned repeatedly until it is due: not before `wake_at`.
pub async fn nothing_is_due_before_its_time_by_the_stores_clock(world: &impl World) {
    stored(world, 1, |saga, now| saga.wake_at = Some(now + TimeDelta::hours(1))).await;
    let saga = stored(world, 1, |saga, now| saga.wake_at = Some(now + TimeDelta::milliseconds(100))).await;
    let loaded = loop {
        let loaded = world.store().due(&scan(&[1])).await.unwrap();
        if !loaded.sagas.is_empty() {
            break loaded;
        }
    };
    assert_eq!(loaded.sagas, std::slice::from_ref(&saga));
    assert!(Some(loaded.now) >= saga.wake_at, "{} is before {:?}", loaded.now, saga.wake_at);
}

/// Neither ended sagas, nor sagas without a timer, nor sagas of other slots.
pub async fn only_live_sagas_of_the_slots_are_due(world: &impl World) {
    let overdue = |saga: &mut Saga, now| saga.wake_at = Some(now - TimeDelta::seconds(1));
    let here = stored(world, 1, overdue).await;
    let elsewhere = stored(world, 2, overdue).await;
    stored(world, 1, |saga, now| {
        overdue(saga, now);
        saga.live = false;
    })
    .await;
    stored(world, 1, |saga, _| saga.wake_at = None).await;
    assert_eq!(due(world, &scan(&[1])).await, [here.id]);
    assert_eq!(due(world, &scan(&[2, 900])).await, [elsewhere.id]);
    assert_eq!(due(world, &scan(&[])).await, NONE);
    // Live again, as an orphan makes it.
    let write = moved(&here, 1, here.born_at);
    commit(world, &[Write { saga: Saga { live: false, ..write.saga.clone() }, ..write.clone() }]).await;
    assert_eq!(due(world, &scan(&[1])).await, NONE);
    commit(world, &[moved(&write.saga, 1, here.born_at)]).await;
    assert_eq!(due(world, &scan(&[1])).await, [here.id]);
}

/// A newer program's sagas are left to that program: this program neither sees nor moves them.
pub async fn only_what_the_program_knows_is_due_and_keeps_its_time_otherwise(world: &impl World) {
    let overdue = |saga: &mut Saga, now| saga.wake_at = Some(now - TimeDelta::seconds(9));
    let older = stored(world, 1, overdue).await;
    let newer = stored(world, 1, |saga, now| {
        overdue(saga, now);
        saga.workflow_version = 2;
    })
    .await;
    let knows = |version| ("errand".to_owned(), version);
    let all = Known { workflows: vec![knows(1), knows(2)], ..known() };
    let one_at_a_time = DueScan { limit: 1, ..scan(&[1]) };
    assert_eq!(due(world, &one_at_a_time).await, [older.id]);
    assert_eq!(due(world, &DueScan { passed_over: vec![older.id], ..one_at_a_time.clone() }).await, NONE);
    assert_eq!(due(world, &DueScan { known: Known::default(), ..scan(&[1]) }).await, NONE);
    let mut both = due(world, &DueScan { known: all, ..scan(&[1]) }).await;
    both.sort();
    assert_eq!(both, [older.id, newer.id]);
    assert_eq!(load(world, newer.id).await, newer);
}

/// All other writes of the batch are written, and the locked ones are reported.
pub async fn a_row_that_another_transaction_holds_is_passed_over_and_stops_nobody(world: &impl World) {
    let at = now(world).await;
    let mut sagas = Vec::new();
    for slot in [1, 1, 2] {
        sagas.push(stored(world, slot, |_, _| {}).await);
    }
    commit(world, &[moved(&sagas[2], 1, at)]).await;
    let batch: Vec<Write> = sagas.iter().map(|saga| moved(saga, 1, at)).collect();
    let held = world.hold(&[sagas[0].id]).await;
    let Committed { written, locked, .. } = world.store().commit(&batch).await.unwrap();
    assert_eq!(written.iter().map(|inputs| inputs.saga_id).collect::<Vec<_>>(), [sagas[1].id]);
    assert_eq!(locked, [sagas[0].id], "the third is stale, and not held");
    assert_eq!(load(world, sagas[0].id).await, sagas[0]);
    let again = world.store().commit(&batch[..1]).await.unwrap();
    assert_eq!((again.written.len(), again.locked), (0, vec![sagas[0].id]));
    drop(held);
    // The transaction ends shortly after the drop.
    while commit(world, &batch[..1]).await.is_empty() {}
    for saga in &sagas {
        assert_eq!(load(world, saga.id).await.revision, 2);
        assert_eq!(world.timeline(saga.id).await.len(), 2);
    }
}

/// Rescheduling does not wait for a lock.
pub async fn a_held_row_is_not_rescheduled_and_others_are(world: &impl World) {
    let overdue = |saga: &mut Saga, now| saga.wake_at = Some(now - TimeDelta::seconds(1));
    let (one, two) = (stored(world, 1, overdue).await, stored(world, 1, overdue).await);
    let later = Some(one.born_at + TimeDelta::seconds(60));
    let _held = world.hold(&[one.id]).await;
    let passed_over = world.store().reschedule(&[(one.id, 1, later), (two.id, 1, later)]).await.unwrap();
    assert_eq!(passed_over, [one.id]);
    assert_eq!(due(world, &scan(&[1])).await, [one.id]);
}

/// Neither revision nor timeline.
pub async fn rescheduling_changes_only_when_it_wakes(world: &impl World) {
    let saga = stored(world, 1, |saga, now| saga.wake_at = Some(now - TimeDelta::seconds(1))).await;
    let later = saga.born_at + TimeDelta::seconds(60);
    world.store().reschedule(&[(saga.id, saga.revision, Some(later))]).await.unwrap();
    assert_eq!(due(world, &scan(&[1])).await, NONE);
    assert_eq!(load(world, saga.id).await, Saga { wake_at: Some(later), ..saga.clone() });
    assert_eq!(world.timeline(saga.id).await.len(), 1);
}

/// A concurrent writer has set a newer `wake_at`.
pub async fn rescheduling_a_saga_that_moved_on_changes_nothing(world: &impl World) {
    let saga = stored(world, 1, |_, _| {}).await;
    let write = moved(&saga, 1, saga.born_at);
    commit(world, std::slice::from_ref(&write)).await;
    world.store().reschedule(&[(saga.id, saga.revision, None)]).await.unwrap();
    assert_eq!(load(world, saga.id).await, write.saga);
}

/// Live sagas of the slots, in pages by id.
pub async fn those_that_changed_lately_are_in_flight(world: &impl World) {
    let now = now(world).await;
    let mut fresh = Vec::new();
    for _ in 0..3 {
        fresh.push(stored(world, 1, |_, _| {}).await.id);
    }
    stored(world, 2, |_, _| {}).await;
    stored(world, 1, |saga, _| saga.live = false).await;
    let old = birth(1, now - TimeDelta::seconds(60));
    world.create(&old, &Json::null()).await;
    fresh.sort();
    let within = Duration::from_secs(30);
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let page = world.store().in_flight(&[1, 3], within, after, 2).await.unwrap();
        assert!(page.now >= now);
        let Some(last) = page.sagas.last() else { break };
        after = Some(last.id);
        pages.extend(page.sagas.iter().map(|saga| saga.id));
    }
    assert_eq!(pages, fresh);
    // An old saga that has just changed may have issued a command.
    commit(world, &[moved(&old.saga, 1, now)]).await;
    let found = world.store().in_flight(&[1], within, None, 10).await.unwrap().sagas;
    assert!(found.iter().any(|saga| saga.id == old.saga.id));
}

/// By `wake_at`, each once; neither ended sagas nor those of other slots.
pub async fn those_that_sleep_beyond_are_found_page_by_page(world: &impl World) {
    let (hour, minute) = (TimeDelta::hours(1), Duration::from_secs(60));
    let sleeping = |slot, live, after: TimeDelta| {
        stored(world, slot, move |saga, now| (saga.live, saga.wake_at) = (live, Some(now + after)))
    };
    let mut expected = Vec::new();
    for n in 0..3 {
        expected.push(sleeping(n, true, hour * (3 - i32::from(n))).await.id);
    }
    expected.reverse();
    sleeping(1, true, TimeDelta::seconds(30)).await;
    sleeping(1, false, hour).await;
    sleeping(9, true, hour).await;
    let (mut found, mut after) = (Vec::new(), None);
    while let Some(saga) =
        world.store().sleeping_beyond(&[0, 1, 2], minute, after, 1).await.unwrap().sagas.pop()
    {
        after = saga.wake_at.map(|at| (at, saga.id));
        found.push(saga.id);
    }
    assert_eq!(found, expected);
}
