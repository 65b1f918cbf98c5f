//! An operator who settles parked sagas, from a present or an old view of them.

use amends_engine::{
    core::{
        Actor, CommandState, Event, Illegal, Input, Resend, Resolution, Retry, Saga, SagaState, Seen, Status,
    },
    runtime::apply::Applied,
};
use amends_protocol::id;
use amends_workflows::order_refund::RefundInput;
use uuid::Uuid;

use super::request;
use crate::{
    executor::{Micros, SECOND},
    faults::Fault,
    gateway::refund_by_hand,
    processes::{act, definition},
    store::{Stored, short},
    world::{Handle, OUTSIDE, WorldState},
};

/// Reads the parked sagas from time to time, and acts on them.
pub(super) async fn operator(handle: Handle) {
    if handle.state().plan.rate(Fault::Operator) == 0.0 {
        return;
    }
    let (holiday, healed) = {
        let state = handle.state();
        (state.clients.holiday, state.heals_at + 150 * SECOND)
    };
    if holiday {
        handle.sleep(healed).await;
    }
    // Loaded pages that were not acted on yet.
    let mut pages: Vec<Page> = Vec::new();
    loop {
        let pause = {
            let mut state = handle.state();
            state.plan.draw(Fault::Operator, 5 * SECOND..90 * SECOND)
        };
        handle.sleep(pause).await;
        let now = handle.state().now;
        let due: Vec<Page> = pages.extract_if(.., |page| page.acts_at <= now).collect();
        for page in due {
            carry_out(&handle, page).await;
        }
        nudge(&handle).await;
        let parked: Vec<Uuid> = {
            let state = handle.state();
            // The operator stops before the end, so that the check sees what waits for people.
            if state.now > state.heals_at + 600 * SECOND {
                return;
            }
            state.store.sagas.values().filter(|s| s.saga.parked).map(|s| s.saga.id).collect()
        };
        let stale = {
            let state = &mut *handle.state();
            let undoing = |s: &&Stored| s.saga.state() == SagaState::Compensating;
            let undoing: Vec<Saga> =
                state.store.sagas.values().filter(undoing).map(|s| s.saga.clone()).collect();
            let draw = state.plan.draw(Fault::Operator, 0..8) as usize;
            undoing.into_iter().nth(draw)
        };
        if let Some(saga) = stale {
            from_an_old_page(&handle, &saga).await;
        }
        for saga in parked {
            let page = {
                let state = &mut *handle.state();
                let draw = state.plan.draw(Fault::Operator, 0..8);
                let Some((word, event)) = decide(state, saga, draw) else { continue };
                // Sometimes the operator looks, and acts much later.
                let slow = state.plan.draw(Fault::Operator, 0..4) == 0;
                let after = if slow { state.plan.draw(Fault::Operator, SECOND..300 * SECOND) } else { 0 };
                Page { saga, word, event, acts_at: state.now + after }
            };
            if page.acts_at > handle.state().now {
                pages.push(page);
            } else {
                carry_out(&handle, page).await;
            }
        }
    }
}

/// An operator's decision about a saga as they saw it.
struct Page {
    saga: Uuid,
    word: &'static str,
    event: Event,
    acts_at: Micros,
}

async fn carry_out(handle: &Handle, Page { saga, word, event, .. }: Page) {
    {
        let mut state = handle.state();
        state.plan.struck[Fault::Operator as usize] += 1;
        state.meet_action(saga, word);
        state.note(OUTSIDE, || format!("operator: {word} {}", short(saga)));
    }
    let answer = request(handle, move |door, answer| async move {
        answer.fill(act(&door, saga, event).await.ok());
    });
    match answer.await {
        Some(Some(Applied::Done(_))) => handle.state().clients.acted.push((saga, word)),
        Some(Some(Applied::Illegal(_, why @ (Illegal::NeedsReference | Illegal::NeedsCommand)))) => {
            handle.state().violations.push(format!("operator: {word} of {}: {why}", short(saga)));
        }
        _ => {}
    }
}

/// From time to time an operator resends a command that waits for its time.
async fn nudge(handle: &Handle) {
    let page = {
        let state = &mut *handle.state();
        let live: Vec<Uuid> = state.store.sagas.values().filter(|s| s.saga.live).map(|s| s.saga.id).collect();
        let draw = state.plan.draw(Fault::Operator, 0..16) as usize;
        let Some(saga) = live.into_iter().nth(draw) else { return };
        let by = Actor::new("operator", "the other side is back");
        let event = Event::ResendRequested(Resend { by, seen: None });
        Page { saga, word: "resend", event, acts_at: state.now }
    };
    carry_out(handle, page).await;
}

/// An operator pays back by hand and resolves what was parked when the page was loaded. By now it is being undone
/// again, and the engine must refuse. (The store checks that what is resolved is parked.)
async fn from_an_old_page(handle: &Handle, saga: &Saga) {
    let under_way = |c: &&CommandState| c.undo.as_ref().is_some_and(|u| !u.done);
    let Some(command) = saga.state.commands.iter().find(under_way) else { return };
    if evidence(&mut handle.state(), saga, command).is_none() {
        return;
    }
    let by = Actor::new("operator", "an old page");
    let Some(definition) = definition(saga) else { return };
    let seen = Seen { revision: saga.revision, command_id: Some(id::undo(command.id(saga.id, &definition))) };
    let resolution = Resolution { by, seen, done: true, reference: "REF-0".to_owned(), exposure: Vec::new() };
    let saga = saga.id;
    let answer = request(handle, move |door, answer| async move {
        answer.fill(act(&door, saga, Event::Resolved(resolution)).await.is_ok());
    });
    answer.await;
}

/// Chooses what an operator does about a parked saga. They ask the other side before they resolve anything, and believe
/// its books at that moment.
fn decide(state: &mut WorldState, saga: Uuid, draw: u64) -> Option<(&'static str, Event)> {
    let by = Actor::new("operator", "looked into it");
    let row = state.store.sagas.get(&saga)?;
    let (saga, data) = (row.saga.clone(), row.data.clone());
    let definition = definition(&saga)?;
    let seen = saga.seen(&definition);
    match draw {
        0..=2 => Some(("retry", Event::RetryRequested(Retry { by, seen }))),
        3 => Some(("cancel", Event::CancelRequested(by))),
        4 => None,
        _ => {
            // A poisoned saga can only be retried.
            seen.command_id?;
            let command = saga.parked_command()?;
            let done = evidence(state, &saga, command)?;
            let mut exposure = Vec::new();
            if done && command.undo.is_none() && command.status != Status::Succeeded {
                let call = saga.call(command.part, Input { data: &data, personal: None });
                exposure = (definition.steps[command.step].may_hold)(&call);
            }
            let reference = "REF-1".to_owned();
            let word = if done { "resolve done" } else { "resolve notDone" };
            Some((word, Event::Resolved(Resolution { by, seen, done, reference, exposure })))
        }
    }
}

/// Returns what the other side says about a parked command: whether it was done (for a compensation: undone). `None` if
/// a person would not resolve it, or would first have it done by hand.
fn evidence(state: &mut WorldState, saga: &Saga, command: &CommandState) -> Option<bool> {
    let data = state.store.sagas.get(&saga.id)?.data.clone();
    let definition = definition(saga)?;
    let key = command.id(saga.id, &definition);
    let undoing = command.undo.as_ref().is_some_and(|u| !u.done);
    let by_hand = Uuid::new_v5(&id::undo(key), b"by hand");
    match definition.steps[command.step].name {
        "pay" if undoing => {
            // The money, if any, is paid back by hand.
            if let Some(charge) = state.outside.charges.get_mut(&key).filter(|c| c.declined.is_none()) {
                charge.refund.get_or_insert((by_hand, by_hand));
            }
            Some(true)
        }
        "ship" if undoing => {
            if let Some(booked) = state.outside.bookings.get_mut(&key).filter(|b| b.tracking.is_some()) {
                booked.cancelled.get_or_insert(by_hand);
            }
            Some(true)
        }
        // A refund that the gateway refuses is paid back by hand. Nobody says that one was not done: it may be on its way.
        "refund" => {
            let refused = command.status == Status::Refused;
            // A return's input has the same fields, and more.
            let input: Option<RefundInput> = data.read().ok();
            let charge =
                input.and_then(|input| Some((state.outside.charges.get_mut(&input.charge)?, input.amount)));
            let (charge, amount) = charge?;
            // However often they look, and whichever generation is parked: once.
            let by_hand = refund_by_hand(saga.id);
            let is_paid = charge.back.contains_key(&by_hand);
            // Who sees that nothing is left to pay back (a refund that the engine has forgotten) pays nothing.
            let back: i64 = charge.back.values().map(|(_, amount)| amount).sum();
            let is_owed = charge.refund.is_none() && back + amount <= charge.amount;
            if refused && !is_paid && is_owed {
                charge.back.insert(by_hand, (by_hand, amount));
            }
            [by_hand, key].iter().any(|paid| charge.back.contains_key(paid)).then_some(true)
        }
        "pay" => Some(state.outside.charges.get(&key).is_some_and(|c| c.declined.is_none())),
        "ship" => Some(state.outside.bookings.get(&key).is_some_and(|b| b.tracking.is_some())),
        _ => None,
    }
}
