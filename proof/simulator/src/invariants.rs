//! Invariants of a quiet world: those of RELIABILITY, each in a function with its name.

mod books;
mod losses;
mod messages;
mod odd;
mod returns;
mod set_right;
mod signals;
mod timing;
mod traces;

pub use books::*;
pub use losses::*;
pub use messages::*;
pub use odd::*;
pub use returns::*;
use set_right::Books;
pub use signals::*;
pub use timing::*;
pub use traces::*;

use std::collections::{BTreeMap, BTreeSet};

use amends_engine::core::{
    Catalog, Definition, Direction, Entry, Event, Input, NewSaga, Resend, Retry, Saga, SagaOutcome, Status,
    StepKind, replay,
};
use amends_inventory::stock;
use amends_protocol::{Exposure, Kind, Outcome};
use amends_worker::row::{self, CommandRow};
use amends_workflows::{order_fulfilment as order, order_refund, order_return};
use uuid::Uuid;

use crate::{
    clients::PRODUCTS,
    executor::SECOND,
    gateway::refund_by_hand,
    processes::{PATIENCE, catalog},
    store::{Stored, short},
    world::WorldState,
};

/// The data of a quiet world.
pub struct Quiet<'a> {
    state: &'a WorldState,
    catalog: Catalog,
    sagas: Vec<(&'a Stored, Vec<Entry>)>,
    /// The books of workers and of the world outside, once people have set right what the store has lost.
    books: Books,
}

/// An invariant: its name, and a check that returns the violations.
pub type Invariant = (&'static str, fn(&Quiet<'_>) -> Vec<String>);

/// All invariants, numbered as in RELIABILITY.
pub const ALL: [Invariant; 27] = [
    ("1 stock_balances", stock_balances),
    ("2 money_balances", money_balances),
    ("3 one_outcome_that_never_changes", one_outcome_that_never_changes),
    ("4 no_orphans", no_orphans),
    ("5 fulfilled_is_one_of_each_and_undone_is_nothing", fulfilled_is_one_of_each_and_undone_is_nothing),
    ("6 one_effect_a_command", one_effect_a_command),
    ("7 what_was_accepted_exists", what_was_accepted_exists),
    ("8 timelines_replay", timelines_replay),
    ("9 rows_match_timelines", rows_match_timelines),
    ("10 timers_are_on_time", timers_are_on_time),
    ("11 compensations_in_reverse", compensations_in_reverse),
    ("12 late_successes_are_undone", late_successes_are_undone),
    ("13 finished_or_parked", finished_or_parked),
    ("13 every_reply_is_judged", every_reply_is_judged),
    ("14 dead_letters_are_poison", dead_letters_are_poison),
    ("14 odd_replies_are_noted", odd_replies_are_noted),
    ("15 actions_are_audited", actions_are_audited),
    ("16 nothing_personal", nothing_personal),
    ("21 nothing_times_out_in_a_healthy_system", nothing_times_out_in_a_healthy_system),
    ("33 no_piece_comes_back_twice", no_piece_comes_back_twice),
    ("34 never_more_than_was_captured", never_more_than_was_captured),
    ("signals_take_effect_once", signals_take_effect_once),
    ("undone_holds_nothing", undone_holds_nothing),
    ("patience_is_kept", patience_is_kept),
    ("messages_carry_the_trace", messages_carry_the_trace),
    ("strays_list_what_was_lost", strays_list_what_was_lost),
    ("event_ids_are_unique", event_ids_are_unique),
];

/// Checks all invariants; returns the violations.
pub fn check(state: &WorldState) -> Vec<String> {
    let sagas = state.store.sagas.values().map(|s| (s, s.timeline())).collect();
    let catalog = catalog();
    let quiet = Quiet { state, sagas, books: Books::of(state, &catalog), catalog };
    let broken = ALL.iter().flat_map(|(name, check)| {
        let name = *name;
        check(&quiet).into_iter().map(move |why| format!("{name}: {why}"))
    });
    state.violations.iter().cloned().chain(broken).collect()
}

impl Quiet<'_> {
    /// Returns the definition of a saga's workflow.
    fn definition(&self, saga: &Saga) -> &Definition {
        self.catalog
            .get(&saga.workflow, saga.workflow_version)
            .expect("the newer program knows every workflow")
    }

    fn each(&self, broken: impl Fn(&Stored, &[Entry]) -> Option<String>) -> Vec<String> {
        let of = |(stored, entries): &(&Stored, Vec<Entry>)| {
            broken(stored, entries)
                .map(|why| format!("{} ({}): {why}", short(stored.saga.id), stored.saga.label))
        };
        self.sagas.iter().filter_map(of).collect()
    }

    /// Returns what gateway, carrier and inventory hold for a saga, by kind and unit.
    fn held(&self, saga: &Saga) -> BTreeMap<(String, String), i64> {
        let mut held: BTreeMap<(String, String), i64> = BTreeMap::new();
        let definition = self.definition(saga);
        for command in &saga.state.commands {
            let key = command.id(saga.id, definition);
            let charge = self.books.charges.get(&key).filter(|c| c.declined.is_none() && c.refund.is_none());
            if let Some(charge) = charge.filter(|c| c.amount != 0) {
                *held.entry(("money_captured".into(), charge.currency.clone())).or_default() += charge.amount;
            }
            for charge in self.books.charges.values() {
                if let Some((_, amount)) = charge.back.get(&key) {
                    *held.entry(("money_refunded".into(), charge.currency.clone())).or_default() += amount;
                }
            }
            for restock in self.books.restocks.iter().filter(|r| r.command_id == key) {
                let back = ("stock_returned".into(), restock.product_id.clone());
                *held.entry(back).or_default() += restock.quantity;
            }
            let booked = self.books.bookings.get(&key);
            if booked.is_some_and(|b| b.tracking.is_some() && b.cancelled.is_none()) {
                *held.entry(("label_bought".into(), "label".into())).or_default() += 1;
            }
            for (product, line) in self.books.reservations.get(&key).into_iter().flatten() {
                if line.status == stock::Status::Held {
                    *held.entry(("stock_reserved".into(), product.clone())).or_default() += line.quantity;
                }
            }
        }
        for charge in self.books.charges.values() {
            if let Some((_, amount)) = charge.back.get(&refund_by_hand(saga.id)) {
                *held.entry(("money_refunded".into(), charge.currency.clone())).or_default() += amount;
            }
        }
        held
    }

    fn total(&self, stored: &Stored) -> i64 {
        stored.data.read::<order::OrderInput>().map_or(0, |i| i.total)
    }
}

fn fulfils(saga: &Saga) -> bool {
    !matches!(saga.workflow.as_str(), order_return::NAME | order_refund::NAME)
}

fn is_at_rest(saga: &Saga) -> bool {
    saga.outcome.is_some() && !saga.live && !saga.parked
}

/// A saga has exactly one outcome, which never changes. (Every write checks this, too.)
pub fn one_outcome_that_never_changes(quiet: &Quiet<'_>) -> Vec<String> {
    quiet.each(|stored, entries| {
        let ended: Vec<SagaOutcome> = entries.iter().filter_map(|e| e.did.ended).collect();
        let same = ended.len() <= 1 && ended.first().copied() == stored.saga.outcome;
        (!same).then(|| format!("ended {ended:?}, is {:?}", stored.saga.outcome))
    })
}

/// Every order that was answered with 2xx exists; every idempotency key belongs to one order; a promised cancellation
/// is kept. Where the store has gone back: unless it was placed, or promised, after the moment that came back.
pub fn what_was_accepted_exists(quiet: &Quiet<'_>) -> Vec<String> {
    let (state, mut broken) = (quiet.state, Vec::new());
    for (key, orders) in &state.clients.accepted {
        let distinct: BTreeSet<&Uuid> =
            orders.iter().filter(|order| !state.losses.orders.contains(order)).collect();
        let stored = state.store.keys.get(key).map(|(order, _)| order);
        // If all are lost, the key may by now belong to an order that no client knows of.
        let all_lost = distinct.is_empty() && state.losses.keys.contains(key);
        if !all_lost && (distinct.len() != 1 || stored != distinct.first().copied()) {
            broken.push(format!("{key}: answered {distinct:?}, stored {stored:?}"));
        }
        for order in distinct {
            if !state.store.orders.get(order).is_some_and(|saga| state.store.sagas.contains_key(saga)) {
                broken.push(format!("order {order} was accepted and is not there"));
            }
        }
    }
    for saga in &state.clients.promised {
        let Some(stored) = state.store.sagas.get(saga) else { continue };
        let is_cancel = |entry: &Entry| matches!(entry.occurrence.event, Event::CancelRequested(_));
        let forgotten = state.losses.of(*saga).any(is_cancel) && !stored.timeline().iter().any(is_cancel);
        let kept = stored.saga.label == order::CANCELLED || stored.saga.parked;
        if !kept && !forgotten {
            broken.push(format!("{}: cancellation promised, is {}", short(*saga), stored.saga.label));
        }
    }
    broken
}

/// A saga's revisions have no gap; replaying its timeline through the pure core gives the stored row.
pub fn timelines_replay(quiet: &Quiet<'_>) -> Vec<String> {
    quiet.each(|stored, entries| {
        let saga = &stored.saga;
        let new = NewSaga { id: saga.id, business_key: saga.business_key.clone(), trace: None };
        match replay(quiet.definition(saga), new, entries) {
            Err(mismatch) => Some(mismatch.to_string()),
            Ok(replayed) => {
                // A wake-up without an entry may raise it.
                let replayed = Saga { wake_at: saga.wake_at, ..replayed };
                (replayed != *saga).then(|| "the history gives another row".to_owned())
            }
        }
    })
}

/// Every row of a worker matches a timeline, and every settled command matches a row.
pub fn rows_match_timelines(quiet: &Quiet<'_>) -> Vec<String> {
    let rows: BTreeMap<Uuid, &CommandRow> = quiet.books.rows.values().map(|row| (row.key, row)).collect();
    let mut known = BTreeSet::new();
    let mut broken = quiet.each(|stored, entries| {
        let by_hand = entries.iter().any(|e| matches!(e.occurrence.event, Event::Resolved(_)));
        let definition = quiet.definition(&stored.saga);
        let commands =
            stored.saga.state.commands.iter().filter(|c| definition.steps[c.step].signal.is_none());
        commands.into_iter().find_map(|command| {
            let row = rows.get(&command.id(stored.saga.id, definition));
            let step = definition.steps[command.step].name;
            let said = row.map(|r| r.status);
            use row::Status as R;
            let right = match command.status {
                Status::Succeeded if command.undo.is_none() => said == Some(R::Succeeded),
                Status::Succeeded => matches!(said, Some(R::Succeeded | R::Undoing | R::Undone)),
                Status::Refused => matches!(said, Some(R::Refused | R::Tombstone)),
                Status::Failed => matches!(said, Some(R::FailedTransient | R::FailedForGood | R::Tombstone)),
                // Fenced because it is being undone; an undo that fails leaves it succeeded.
                Status::Fenced if command.undo.is_some() && said == Some(R::Succeeded) => true,
                Status::Fenced => matches!(said, Some(R::Tombstone | R::Undoing | R::Undone)),
                _ => true,
            };
            (!right && !by_hand).then(|| format!("{step} is {:?}, its row {said:?}", command.status))
        })
    });
    for (stored, _) in &quiet.sagas {
        let definition = quiet.definition(&stored.saga);
        known.extend(stored.saga.state.commands.iter().map(|c| c.id(stored.saga.id, definition)));
    }
    broken.extend(rows.keys().filter(|key| !known.contains(key)).map(|key| format!("row {key} is nobody's")));
    broken
}

/// Compensations run in reverse, only for steps that may have run, and not once the pivot has succeeded.
pub fn compensations_in_reverse(quiet: &Quiet<'_>) -> Vec<String> {
    quiet.each(|stored, entries| {
        let definition = quiet.definition(&stored.saga);
        let (mut sent, mut undoing): (BTreeSet<usize>, Vec<usize>) = (BTreeSet::new(), Vec::new());
        let mut past_pivot = entries.iter().skip_while(|e| e.did.label.as_deref() != Some(order::FULFILLED));
        if past_pivot.any(|e| e.did.heading_for.is_some()) {
            return Some("undone past the point of no return".to_owned());
        }
        for entry in entries {
            for what in &entry.did.sent {
                let (name, kind) = what.split_once(' ')?;
                let (step, _) = definition.step(name.split('/').next()?)?;
                match kind.split(' ').next()? {
                    "execute" => {
                        sent.insert(step);
                    }
                    "compensate" if !sent.contains(&step) => {
                        return Some(format!("{name} undone, never sent"));
                    }
                    "compensate" if entry.did.incident.is_none() && !undoing.contains(&step) => {
                        if undoing.last().is_some_and(|last| *last < step) {
                            return Some(format!("{name} undone after an earlier step"));
                        }
                        undoing.push(step);
                    }
                    _ => {}
                }
            }
        }
        None
    })
}

/// Every late success has its refund or release.
pub fn late_successes_are_undone(quiet: &Quiet<'_>) -> Vec<String> {
    quiet.each(|stored, _| {
        let saga = &stored.saga;
        if !is_at_rest(saga) {
            return None;
        }
        saga.state.commands.iter().enumerate().find_map(|(at, command)| {
            let step = &quiet.definition(saga).steps[command.step];
            let newer = saga.state.commands[at + 1..]
                .iter()
                .any(|c| c.step == command.step && c.part == command.part);
            let kept = saga.outcome == Some(SagaOutcome::Completed) && !newer;
            let effect = step.signal.is_none() && step.kind != StepKind::Retriable;
            let needs = command.status == Status::Succeeded && effect && !kept;
            (needs && !command.is_undone()).then(|| format!("{} succeeded and was not undone", step.name))
        })
    })
}

/// Within a bounded time after healing, every saga has ended, is parked with a reason, or waits for a signal.
pub fn finished_or_parked(quiet: &Quiet<'_>) -> Vec<String> {
    quiet.each(|stored, _| {
        let saga = &stored.saga;
        let reason = saga.parked_reason().is_some_and(|r| !r.code.is_empty());
        let finished = saga.outcome.is_some() && saga.state.direction == Direction::Ended && !saga.live;
        // Clocks that were set back make a deadline come later.
        let deadline = saga.wake_at.map(|at| quiet.state.store.simulated(at));
        let waits = saga.awaited(quiet.definition(saga)).is_some();
        let waits = waits && deadline.is_none_or(|at| at > quiet.state.now);
        (!(finished || waits || saga.parked && reason)).then(|| format!("unfinished at {}", saga.step))
    })
}

/// By the engine's own ledger, an undone saga that is idle holds nothing.
pub fn undone_holds_nothing(quiet: &Quiet<'_>) -> Vec<String> {
    quiet.each(|stored, _| {
        let saga = &stored.saga;
        let undone = saga.outcome == Some(SagaOutcome::Undone) && is_at_rest(saga);
        let held = saga.state.commands.iter().find(|c| undone && !c.held.is_empty())?;
        Some(format!("is undone, and its ledger holds {:?}", held.held))
    })
}

/// Every operator action has its entry: who, when, why.
pub fn actions_are_audited(quiet: &Quiet<'_>) -> Vec<String> {
    quiet.each(|stored, entries| {
        let acted = quiet
            .state
            .clients
            .acted
            .iter()
            .filter(|(saga, word)| *saga == stored.saga.id && *word != "cancel");
        // What the store has forgotten was audited.
        let forgotten = quiet.state.losses.of(stored.saga.id);
        let audited = entries.iter().chain(forgotten).filter(|e| match &e.occurrence.event {
            Event::RetryRequested(Retry { by, .. }) | Event::ResendRequested(Resend { by, .. }) => {
                !by.who.is_empty() && !by.why.is_empty()
            }
            Event::Resolved(resolution) => !resolution.by.who.is_empty() && !resolution.by.why.is_empty(),
            _ => false,
        });
        let (acted, audited) = (acted.count(), audited.count());
        (acted > audited).then(|| format!("{acted} actions, {audited} entries"))
    })
}
