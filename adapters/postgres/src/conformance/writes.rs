//! Births and commits, as every store must perform them.

use super::*;

/// Row, first entry and time are read as they were written.
pub async fn what_was_born_is_read_back(world: &impl World) {
    let birth = birth(7, now(world).await);
    world.create(&birth, &Json::null()).await;
    let loaded = world.store().load(&[Uuid::now_v7(), birth.saga.id]).await.unwrap();
    assert_eq!(loaded.sagas, std::slice::from_ref(&birth.saga));
    assert!(loaded.now >= birth.saga.born_at);
    assert_eq!(world.timeline(birth.saga.id).await, [birth.entry]);
}

/// Several entries at once, without a gap.
pub async fn a_write_replaces_the_row_and_adds_its_entries(world: &impl World) {
    let saga = stored(world, 1, |_, _| {}).await;
    let first = moved(&saga, 3, now(world).await);
    assert_eq!(commit(world, std::slice::from_ref(&first)).await, [saga.id]);
    let second = moved(&first.saga, 2, now(world).await);
    assert_eq!(commit(world, std::slice::from_ref(&second)).await, [saga.id]);
    assert_eq!(load(world, saga.id).await, second.saga);
    let timeline = world.timeline(saga.id).await;
    assert_eq!(timeline.iter().map(|entry| entry.revision).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(timeline[1..4], first.entries);
    assert_eq!(timeline[4..], second.entries);
}

/// Every column of a row.
pub async fn what_is_written_has_an_outcome_a_reason_and_no_timer(world: &impl World) {
    let saga = stored(world, 1, |_, _| {}).await;
    let now = now(world).await;
    let mut write = moved(&saga, 1, now);
    write.saga = Saga {
        label: "CANCELLED".into(),
        heading_for: Some("CANCELLED".into()),
        reason: Some(Reason::new("changed_mind", "says “no” ✗")),
        outcome: Some(SagaOutcome::Undone),
        parked: true,
        live: false,
        wake_at: None,
        step: "carry".into(),
        since: now,
        ..write.saga
    };
    commit(world, std::slice::from_ref(&write)).await;
    assert_eq!(load(world, saga.id).await, write.saga);
    let again = moved(&write.saga, 1, now);
    let again = Write { saga: Saga { outcome: Some(SagaOutcome::Completed), ..again.saga }, ..again };
    commit(world, std::slice::from_ref(&again)).await;
    assert_eq!(load(world, saga.id).await.outcome, Some(SagaOutcome::Completed));
}

/// The revision fences writers.
pub async fn the_write_of_a_zombie_changes_nothing(world: &impl World) {
    let saga = stored(world, 1, |_, _| {}).await;
    let at = now(world).await;
    let (write, zombie) = (moved(&saga, 1, at), moved(&saga, 2, at));
    commit(world, std::slice::from_ref(&write)).await;
    assert_eq!(commit(world, &[zombie]).await, NONE);
    assert_eq!(load(world, saga.id).await, write.saga);
    assert_eq!(world.timeline(saga.id).await.len(), 2);
}

/// The second of two concurrent writers changes nothing.
pub async fn of_two_writers_of_one_revision_one_is_answered(world: &impl World) {
    for _ in 0..20 {
        let saga = stored(world, 1, |_, _| {}).await;
        let at = now(world).await;
        let (one, two) = ([moved(&saga, 1, at)], [moved(&saga, 1, at)]);
        let (one, two) = tokio::join!(commit(world, &one), commit(world, &two));
        assert_eq!(one.len() + two.len(), 1);
        assert_eq!(world.timeline(saga.id).await.len(), 2);
    }
}

/// Writes whose revision still matches are written and returned.
pub async fn a_stale_write_does_not_stop_its_batch(world: &impl World) {
    let at = now(world).await;
    let mut sagas = Vec::new();
    for slot in 0..5 {
        sagas.push(stored(world, slot, |_, _| {}).await);
    }
    commit(world, &[moved(&sagas[2], 1, at)]).await;
    let batch: Vec<Write> = sagas.iter().rev().map(|saga| moved(saga, 2, at)).collect();
    let mut fresh: Vec<Uuid> = sagas.iter().map(|saga| saga.id).filter(|id| *id != sagas[2].id).collect();
    fresh.sort();
    assert_eq!(commit(world, &batch).await, fresh);
    for saga in &sagas {
        let revision = if saga.id == sagas[2].id { 2 } else { 3 };
        assert_eq!(load(world, saga.id).await.revision, revision);
        assert_eq!(world.timeline(saga.id).await.len(), revision as usize);
    }
}

/// A commit returns the requested input; `inputs` returns everything.
pub async fn inputs_come_back_as_far_as_they_are_wanted(world: &impl World) {
    let (data, personal) = (Json::from(json!({"lines": [1, 2.5, "ü"]})), Json::from(json!({"name": "Test"})));
    for (wants, expected) in [
        (Wants { data: false, personal: false }, (Json::null(), None)),
        (Wants { data: true, personal: false }, (data.clone(), None)),
        (Wants { data: false, personal: true }, (Json::null(), Some(personal.clone()))),
        (Wants { data: true, personal: true }, (data.clone(), Some(personal.clone()))),
    ] {
        let birth = birth_with(&data, 1, now(world).await);
        world.create(&birth, &personal).await;
        let write = Write { wants, ..moved(&birth.saga, 1, birth.saga.born_at) };
        let answer = world.store().commit(&[write]).await.unwrap().written.pop().unwrap();
        assert_eq!((answer.data, answer.personal), expected, "{wants:?}");
        let all = world.store().inputs(&[birth.saga.id]).await.unwrap().pop().unwrap();
        assert_eq!(
            (all.saga_id, all.data, all.personal),
            (birth.saga.id, data.clone(), Some(personal.clone()))
        );
    }
    let impersonal = birth_with(&data, 1, now(world).await);
    world.create(&impersonal, &Json::null()).await;
    let all = world.store().inputs(&[impersonal.saga.id]).await.unwrap().pop().unwrap();
    assert_eq!((all.data, all.personal), (data, None));
}

/// A NUL in a column is a data error; the rest of the batch can then be written without it.
pub async fn what_cannot_be_stored_is_a_data_error_and_writes_nothing(world: &impl World) {
    let (good, bad) = (stored(world, 1, |_, _| {}).await, stored(world, 1, |_, _| {}).await);
    let at = now(world).await;
    let sound = moved(&good, 1, at);
    let (mut label, mut heading) = (moved(&bad, 1, at), moved(&bad, 1, at));
    label.saga.label = "NUL \0".into();
    heading.saga.heading_for = Some("NUL \0".into());
    for poison in [label, heading] {
        let refused = world.store().commit(&[sound.clone(), poison]).await;
        // A store of several parts says which of them failed.
        let refused = match refused {
            Ok(Committed { written, failed, .. }) if written.is_empty() && failed.len() == 1 => {
                Err(failed[0].error.clone())
            }
            refused => refused,
        };
        assert!(matches!(refused, Err(Error::Data(_))), "{refused:?}");
        assert_eq!((load(world, good.id).await, load(world, bad.id).await), (good.clone(), bad.clone()));
    }
    assert_eq!(commit(world, &[sound]).await, [good.id]);
    assert_eq!((world.timeline(good.id).await.len(), world.timeline(bad.id).await.len()), (2, 1));
}

/// JSON can express what a text column cannot store.
pub async fn a_nul_within_json_is_stored_and_read_back(world: &impl World) {
    let odd = birth(1, now(world).await);
    world.create(&odd, &Json::null()).await;
    let mut write = moved(&odd.saga, 1, odd.saga.born_at);
    write.saga.state.poisoned = Some(Reason::new("nul", "\0"));
    write.entries[0].did.parked = Some(Reason::new("nul", "\0"));
    assert_eq!(commit(world, std::slice::from_ref(&write)).await, [odd.saga.id]);
    assert_eq!(load(world, odd.saga.id).await, write.saga);
    assert_eq!(world.timeline(odd.saga.id).await[1], write.entries[0]);
}
