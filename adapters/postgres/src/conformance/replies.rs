//! Deferred replies, strays and announcements of programs, as every store must keep them.

use super::*;

/// Creates a reply to keep for an errand's saga.
pub fn deferred_reply(
    saga_id: Uuid,
    workflow_version: u32,
    core_version: u16,
    rest: Duration,
) -> DeferredReply {
    DeferredReply {
        message: Inbound {
            topic: "saga.replies".to_owned(),
            partition: 3,
            offset: 7,
            traceparent: None,
            signature: None,
            bytes: format!("{{\"version\":\"{workflow_version}\",\"text\":\"ü\"}}").into_bytes(),
        },
        saga_id,
        slot: 1,
        requires: Requires {
            workflow: "errand".to_owned(),
            workflow_version,
            core_version,
            state_version: STATE_VERSION,
        },
        why: Deferral::UnknownWorkflow,
        rest,
    }
}

/// Creates a scan for replies about errands.
pub fn deferred_scan(slots: &[u16]) -> DeferredScan {
    DeferredScan { known: known(), slots: slots.to_vec(), abroad: Duration::ZERO, limit: 10 }
}

/// However often it is received; it stays until it is forgotten.
pub async fn a_deferred_reply_is_kept_once_and_read_by_programs_that_can_judge_it(world: &impl World) {
    let (saga, store) = (Uuid::now_v7(), world.store());
    let mine = deferred_reply(saga, 1, CORE_VERSION, Duration::ZERO);
    let newer_workflow = deferred_reply(saga, 2, CORE_VERSION, Duration::ZERO);
    let newer_core = deferred_reply(Uuid::now_v7(), 1, 99, Duration::ZERO);
    store.defer(&[newer_workflow.clone(), mine.clone(), newer_core]).await.unwrap();
    store.defer(std::slice::from_ref(&mine)).await.unwrap();
    let found = store.deferred(&deferred_scan(&[1])).await.unwrap();
    assert_eq!(found, [(mine.id(), mine.message.clone())]);
    assert_eq!(
        store.deferred(&deferred_scan(&[1])).await.unwrap().len(),
        1,
        "it stays until it is forgotten"
    );
    // It waits for another reason now, and is due later.
    store.defer(&[DeferredReply { rest: Duration::from_secs(60), ..mine.clone() }]).await.unwrap();
    assert_eq!(store.deferred(&deferred_scan(&[1])).await.unwrap(), []);
    let newer = Known { workflows: vec![("errand".to_owned(), 2)], ..known() };
    let newer = DeferredScan { known: newer, ..deferred_scan(&[1]) };
    assert_eq!(store.deferred(&newer).await.unwrap().len(), 1);
    store.forget_deferred(&[newer_workflow.id(), mine.id()]).await.unwrap();
    assert_eq!(store.deferred(&newer).await.unwrap(), []);
}

/// For as long as the scan says.
pub async fn a_deferred_reply_of_another_slot_waits_for_its_owner_first(world: &impl World) {
    let reply = deferred_reply(Uuid::now_v7(), 1, CORE_VERSION, Duration::ZERO);
    world.store().defer(std::slice::from_ref(&reply)).await.unwrap();
    let abroad = DeferredScan { abroad: Duration::from_secs(60), ..deferred_scan(&[2]) };
    assert_eq!(world.store().deferred(&abroad).await.unwrap(), []);
    assert_eq!(world.store().deferred(&deferred_scan(&[2])).await.unwrap().len(), 1);
    let own = DeferredScan { slots: vec![1], ..abroad };
    assert_eq!(world.store().deferred(&own).await.unwrap().len(), 1);
}

/// Without its own announcement.
pub async fn a_program_hears_what_the_others_know_that_live(world: &impl World) {
    let (store, hour) = (world.store(), Duration::from_secs(3600));
    let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
    let newer = Known { workflows: vec![("errand".to_owned(), 1), ("errand".to_owned(), 2)], ..known() };
    assert_eq!(store.announce(one, &known(), hour).await.unwrap(), []);
    assert_eq!(store.announce(two, &known(), hour).await.unwrap(), [known()]);
    assert_eq!(store.announce(two, &newer, hour).await.unwrap(), [known()]);
    assert_eq!(store.announce(one, &known(), hour).await.unwrap(), [newer]);
    assert_eq!(store.announce(one, &known(), Duration::ZERO).await.unwrap(), [], "it was seen before that");
}

/// However often its reply arrives.
pub async fn a_stray_is_kept_once(world: &impl World) {
    let stray = |command_id| Stray {
        saga_id: Uuid::nil(),
        command_id,
        reply: Json::from(json!({"outcome": "succeeded"})),
    };
    let (one, two) = (stray(Uuid::now_v7()), stray(Uuid::now_v7()));
    world.store().keep_strays(std::slice::from_ref(&one)).await.unwrap();
    world.store().keep_strays(&[two, one]).await.unwrap();
    assert_eq!(world.strays().await, 2);
}

/// Empty batches are no errors.
pub async fn nothing_asked_is_nothing_answered(world: &impl World) {
    let store = world.store();
    assert_eq!(store.load(&[]).await.unwrap().sagas, []);
    assert_eq!(store.load(&[Uuid::now_v7()]).await.unwrap().sagas, []);
    assert_eq!(store.commit(&[]).await.unwrap(), Committed::default());
    assert_eq!(store.inputs(&[Uuid::now_v7()]).await.unwrap(), []);
    store.reschedule(&[]).await.unwrap();
    store.keep_strays(&[]).await.unwrap();
    store.note_odd(&[]).await.unwrap();
    store.defer(&[]).await.unwrap();
    store.forget_deferred(&[]).await.unwrap();
}
