//! What must hold once the world is quiet: RELIABILITY's invariants, each a function named after it.

use std::collections::{BTreeMap, BTreeSet};

use amends_engine::core::{
    Definition, Direction, Entry, Event, Input, NewSaga, Saga, SagaOutcome, Status, StepKind, replay,
};
use amends_inventory::stock;
use amends_protocol::{Exposure, Kind, Outcome};
use amends_worker::row::{self, Row};
use amends_workflows::order_fulfilment as order;
use uuid::Uuid;

use crate::{
    bus::Poison,
    clients::PRODUCTS,
    executor::SECOND,
    processes::catalog,
    store::{Stored, short},
    world::State,
};

/// A quiet world, read.
pub struct Quiet<'a> {
    state: &'a State,
    definition: Definition,
    sagas: Vec<(&'a Stored, Vec<Entry>)>,
}

/// An invariant: its name, and a check that says what breaks it.
pub type Invariant = (&'static str, fn(&Quiet<'_>) -> Vec<String>);

/// All of them, numbered as in RELIABILITY.
pub const ALL: [Invariant; 16] = [
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
    ("14 dead_letters_are_poison", dead_letters_are_poison),
    ("15 actions_are_audited", actions_are_audited),
    ("16 nothing_personal", nothing_personal),
];

/// Checks all of them; says which are broken, and how.
pub fn check(state: &State) -> Vec<String> {
    let definition = catalog().iter().next().cloned().expect("there is a workflow");
    let sagas = state.store.sagas.values().map(|s| (s, s.timeline())).collect();
    let quiet = Quiet { state, definition, sagas };
    let broken = ALL.iter().flat_map(|(name, check)| {
        let name = *name;
        check(&quiet).into_iter().map(move |why| format!("{name}: {why}"))
    });
    state.violations.iter().cloned().chain(broken).collect()
}

impl Quiet<'_> {
    fn each(&self, broken: impl Fn(&Stored, &[Entry]) -> Option<String>) -> Vec<String> {
        let of = |(stored, entries): &(&Stored, Vec<Entry>)| {
            broken(stored, entries)
                .map(|why| format!("{} ({}): {why}", short(stored.saga.id), stored.saga.label))
        };
        self.sagas.iter().filter_map(of).collect()
    }

    /// What the other side and the inventory hold for a saga, by kind and unit.
    fn held(&self, saga: &Saga) -> BTreeMap<(String, String), i64> {
        let mut held: BTreeMap<(String, String), i64> = BTreeMap::new();
        for command in &saga.state.commands {
            let key = command.id(saga.id, &self.definition);
            let charge =
                self.state.outside.charges.get(&key).filter(|c| c.declined.is_none() && c.refund.is_none());
            if let Some(charge) = charge.filter(|c| c.amount != 0) {
                *held.entry(("money_captured".into(), charge.currency.clone())).or_default() += charge.amount;
            }
            let booked = self.state.outside.bookings.get(&key);
            if booked.is_some_and(|b| b.tracking.is_some() && b.cancelled.is_none()) {
                *held.entry(("label_bought".into(), "label".into())).or_default() += 1;
            }
            for (product, line) in self.state.databases[0].reservations.get(&key).into_iter().flatten() {
                if line.status == stock::Status::Held {
                    *held.entry(("stock_reserved".into(), product.clone())).or_default() += line.quantity;
                }
            }
        }
        held
    }

    fn total(&self, stored: &Stored) -> i64 {
        stored.data.read::<order::OrderInput>().map_or(0, |i| i.total)
    }
}

fn is_at_rest(saga: &Saga) -> bool {
    saga.outcome.is_some() && !saga.live && !saga.parked
}

/// Stock, per product: initial + adjustments = on hand + shipped; reserved = what reservations hold; none negative.
pub fn stock_balances(quiet: &Quiet<'_>) -> Vec<String> {
    let db = &quiet.state.databases[0];
    let mut broken = Vec::new();
    for (product, initial) in PRODUCTS {
        let Some(stock) = db.stock.get(product) else { continue };
        let lines = db.reservations.values().filter_map(|lines| lines.get(product));
        let held: i64 = lines.filter(|l| l.status == stock::Status::Held).map(|l| l.quantity).sum();
        let sums = stock.on_hand + stock.shipped == initial && stock.reserved == held;
        let negative = stock.on_hand < 0 || stock.reserved < 0 || stock.on_hand < stock.reserved;
        if !sums || negative {
            broken.push(format!("{product}: {stock:?}, {initial} at first, {held} held"));
        }
    }
    broken
}

/// Per saga the engine's ledger equals the workers' books, or its unknown part covers the difference; in all,
/// what was captured and not refunded is worth what was shipped, and what parked sagas hold.
pub fn money_balances(quiet: &Quiet<'_>) -> Vec<String> {
    let mut broken = quiet.each(|stored, _| {
        let input = Input { data: &stored.data, personal: None };
        let (certain, possible) = stored.saga.holds(&quiet.definition, input);
        let amount = |of: &[Exposure], kind: &str, unit: &str| -> i64 {
            of.iter().filter(|e| e.kind == kind && e.unit == unit).map(|e| e.amount).sum()
        };
        let books = quiet.held(&stored.saga);
        let units: BTreeSet<(String, String)> = (books.keys().cloned())
            .chain(certain.iter().map(|e| (e.kind.clone(), e.unit.clone())))
            .filter(|(kind, _)| kind != "stock_reserved" || !stored.saga.parked)
            // A label that was bought for what was shipped stays bought.
            .collect();
        units.into_iter().find_map(|(kind, unit)| {
            let booked = books.get(&(kind.clone(), unit.clone())).copied().unwrap_or(0);
            let (sure, perhaps) = (amount(&certain, &kind, &unit), amount(&possible, &kind, &unit));
            // What a parked compensation has given back, if anything, is unknown too.
            let undoing = stored.saga.state.commands.iter().any(|c| c.undo.as_ref().is_some_and(|u| !u.done));
            let least = if stored.saga.parked && undoing { 0 } else { sure };
            let covered = (least..=sure + perhaps).contains(&booked);
            (!covered).then(|| format!("{kind} {unit}: books {booked}, ledger {sure} and perhaps {perhaps}"))
        })
    });
    let charges = quiet.state.outside.charges.values();
    let kept: i64 = charges.filter(|c| c.declined.is_none() && c.refund.is_none()).map(|c| c.amount).sum();
    let money = |stored: &Stored| {
        let held = quiet.held(&stored.saga);
        held.into_iter().filter(|((kind, _), _)| kind == "money_captured").map(|(_, n)| n).sum::<i64>()
    };
    let owed: i64 = (quiet.sagas.iter())
        .map(|(s, _)| match s.saga.outcome {
            Some(SagaOutcome::Completed) if !s.saga.parked => quiet.total(s),
            _ if s.saga.parked || !is_at_rest(&s.saga) => money(s),
            _ => 0,
        })
        .sum();
    if kept != owed {
        broken.push(format!("kept {kept}, owed {owed}"));
    }
    broken
}

/// Exactly one outcome a saga, and it never changes. (That it does not change is also watched at every write.)
pub fn one_outcome_that_never_changes(quiet: &Quiet<'_>) -> Vec<String> {
    quiet.each(|stored, entries| {
        let ended: Vec<SagaOutcome> = entries.iter().filter_map(|e| e.did.ended).collect();
        let same = ended.len() <= 1 && ended.first().copied() == stored.saga.outcome;
        (!same).then(|| format!("ended {ended:?}, is {:?}", stored.saga.outcome))
    })
}

/// No reservation, charge or booking that belongs to no saga, or to one that is over and does not hold it.
pub fn no_orphans(quiet: &Quiet<'_>) -> Vec<String> {
    let mut known = BTreeSet::new();
    for (stored, _) in &quiet.sagas {
        known.extend(stored.saga.state.commands.iter().map(|c| c.id(stored.saga.id, &quiet.definition)));
    }
    let effects = (quiet.state.outside.charges.keys())
        .chain(quiet.state.outside.bookings.keys())
        .chain(quiet.state.databases[0].reservations.keys());
    let strange = effects.filter(|key| !known.contains(key)).map(|key| format!("{key} is nobody's"));
    let mut broken: Vec<String> = strange.collect();
    broken.extend(quiet.each(|stored, _| {
        let undone = stored.saga.outcome == Some(SagaOutcome::Undone) && is_at_rest(&stored.saga);
        let held = quiet.held(&stored.saga);
        (undone && !held.is_empty()).then(|| format!("is undone and holds {held:?}"))
    }));
    broken
}

/// `FULFILLED` means exactly one of each effect; an undone order nets to zero.
pub fn fulfilled_is_one_of_each_and_undone_is_nothing(quiet: &Quiet<'_>) -> Vec<String> {
    quiet.each(|stored, _| {
        let saga = &stored.saga;
        if !is_at_rest(saga) {
            return None;
        }
        let keys: Vec<Uuid> = saga.state.commands.iter().map(|c| c.id(saga.id, &quiet.definition)).collect();
        let outside = &quiet.state.outside;
        let charges = keys.iter().filter_map(|k| outside.charges.get(k));
        let charges = charges.filter(|c| c.declined.is_none() && c.refund.is_none()).count();
        let bookings = keys.iter().filter_map(|k| outside.bookings.get(k));
        let bookings = bookings.filter(|b| b.tracking.is_some() && b.cancelled.is_none()).count();
        let reservations = &quiet.state.databases[0].reservations;
        let lines = || keys.iter().filter_map(|k| reservations.get(k)).flat_map(BTreeMap::values);
        let taken = lines().filter(|l| l.status == stock::Status::Taken).count();
        let held = lines().filter(|l| l.status == stock::Status::Held).count();
        let fulfilled = saga.label == order::FULFILLED;
        let lines = stored
            .data
            .read::<order::OrderInput>()
            .map_or(0, |input| input.lines.iter().map(|l| &l.product_id).collect::<BTreeSet<_>>().len());
        let right = match saga.outcome {
            Some(SagaOutcome::Completed) => fulfilled && (charges, bookings, taken, held) == (1, 1, lines, 0),
            _ => !fulfilled && (charges, bookings, taken, held) == (0, 0, 0, 0),
        };
        (!right).then(|| {
            format!("{charges} charges, {bookings} bookings, {taken} of {lines} lines taken, {held} held")
        })
    })
}

/// At most one effect for a saga, step, part and generation, judged from the workers' databases.
pub fn one_effect_a_command(quiet: &Quiet<'_>) -> Vec<String> {
    let mut moved: BTreeMap<(Option<Uuid>, &str, &str), u32> = BTreeMap::new();
    for m in &quiet.state.databases[0].moves {
        *moved.entry((m.command_id, m.kind, &m.product_id)).or_default() += 1;
    }
    let twice = moved.into_iter().filter(|(_, n)| *n > 1);
    let mut broken: Vec<String> = twice.map(|(what, n)| format!("{what:?} {n} times")).collect();
    broken.extend(quiet.each(|stored, _| {
        let mut by_step: BTreeMap<(usize, u16), u32> = BTreeMap::new();
        for command in &stored.saga.state.commands {
            let key = command.id(stored.saga.id, &quiet.definition);
            let charge = quiet.state.outside.charges.get(&key);
            let charged = charge.is_some_and(|c| c.declined.is_none() && c.refund.is_none());
            let booked = quiet.state.outside.bookings.get(&key);
            let booked = booked.is_some_and(|b| b.tracking.is_some() && b.cancelled.is_none());
            *by_step.entry((command.step, command.part)).or_default() += u32::from(charged || booked);
        }
        by_step
            .into_iter()
            .find(|(_, n)| *n > 1)
            .map(|(step, n)| format!("step and part {step:?}: {n} effects"))
    }));
    broken
}

/// Every 2xx order exists; every idempotency key maps to one order; a cancellation that was promised is kept.
pub fn what_was_accepted_exists(quiet: &Quiet<'_>) -> Vec<String> {
    let (state, mut broken) = (quiet.state, Vec::new());
    for (key, orders) in &state.clients.accepted {
        let distinct: BTreeSet<&Uuid> = orders.iter().collect();
        let stored = state.store.keys.get(key).map(|(order, _)| order);
        if distinct.len() != 1 || stored != distinct.first().copied() {
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
        let kept = stored.saga.label == order::CANCELLED || stored.saga.parked;
        if !kept {
            broken.push(format!("{}: cancellation promised, is {}", short(*saga), stored.saga.label));
        }
    }
    broken
}

/// A saga's revisions have no gap; replaying its timeline through the pure core gives the stored row.
pub fn timelines_replay(quiet: &Quiet<'_>) -> Vec<String> {
    quiet.each(|stored, entries| {
        let saga = &stored.saga;
        let new = NewSaga { id: saga.id, slot: saga.slot, business_key: saga.business_key.clone() };
        match replay(&quiet.definition, new, entries) {
            Err(mismatch) => Some(mismatch.to_string()),
            Ok(replayed) => {
                // A look that writes no entry may raise it.
                let replayed = Saga { wake_at: saga.wake_at, ..replayed };
                (replayed != *saga).then(|| "the history gives another row".to_owned())
            }
        }
    })
}

/// Every row of a worker matches a timeline, and every settled command a row.
pub fn rows_match_timelines(quiet: &Quiet<'_>) -> Vec<String> {
    let rows: BTreeMap<Uuid, &Row> =
        quiet.state.databases.iter().flat_map(|db| db.rows.values()).map(|row| (row.key, row)).collect();
    let mut known = BTreeSet::new();
    let mut broken = quiet.each(|stored, entries| {
        let by_hand = entries.iter().any(|e| matches!(e.occurrence.event, Event::Resolved(_)));
        stored.saga.state.commands.iter().find_map(|command| {
            let row = rows.get(&command.id(stored.saga.id, &quiet.definition));
            let step = quiet.definition.steps[command.step].name;
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
        known.extend(stored.saga.state.commands.iter().map(|c| c.id(stored.saga.id, &quiet.definition)));
    }
    broken.extend(rows.keys().filter(|key| !known.contains(key)).map(|key| format!("row {key} is nobody's")));
    broken
}

/// No timer fires early by the database's clock (watched at every look, too), and in the end none is late.
pub fn timers_are_on_time(quiet: &Quiet<'_>) -> Vec<String> {
    let now = quiet.state.now;
    quiet.each(|stored, _| {
        let due = quiet.state.store.simulated(stored.saga.wake_at.filter(|_| stored.saga.live)?);
        (due + 10 * SECOND < now).then(|| format!("is due since {} s", (now - due) / SECOND))
    })
}

/// Compensations run in reverse, only for steps that may have run.
pub fn compensations_in_reverse(quiet: &Quiet<'_>) -> Vec<String> {
    quiet.each(|_, entries| {
        let (mut sent, mut undoing): (BTreeSet<usize>, Vec<usize>) = (BTreeSet::new(), Vec::new());
        for entry in entries {
            for what in &entry.did.sent {
                let (name, kind) = what.split_once(' ')?;
                let (step, _) = quiet.definition.step(name.split('/').next()?)?;
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
            let step = &quiet.definition.steps[command.step];
            let newer = saga.state.commands[at + 1..]
                .iter()
                .any(|c| c.step == command.step && c.part == command.part);
            let kept = saga.outcome == Some(SagaOutcome::Completed) && !newer;
            let needs = command.status == Status::Succeeded && step.kind != StepKind::Retriable && !kept;
            (needs && !command.is_undone()).then(|| format!("{} succeeded and was not undone", step.name))
        })
    })
}

/// Within a bounded time of healing, no saga is unfinished unless parked with a reason.
pub fn finished_or_parked(quiet: &Quiet<'_>) -> Vec<String> {
    quiet.each(|stored, _| {
        let saga = &stored.saga;
        let reason = saga.parked_reason().is_some_and(|r| !r.code.is_empty());
        let finished = saga.outcome.is_some() && saga.state.direction == Direction::Ended && !saga.live;
        (!(finished || saga.parked && reason)).then(|| format!("unfinished at {}", saga.step))
    })
}

/// Dead letters = poison injected.
pub fn dead_letters_are_poison(quiet: &Quiet<'_>) -> Vec<String> {
    let bus = &quiet.state.bus;
    let dead: BTreeSet<(usize, usize, usize)> = bus.dead.iter().map(|(t, p, o, _)| (*t, *p, *o)).collect();
    let mut broken = Vec::new();
    for (t, p, o, why) in &bus.dead {
        if bus.at(*t, *p, *o).is_none_or(|record| record.poison.is_none()) {
            broken.push(format!("{t}/{p}/{o} is sound and was put aside: {why}"));
        }
    }
    for (t, p, o, record, consumed) in bus.records() {
        if consumed && record.poison == Some(Poison::Unreadable) && !dead.contains(&(t, p, o)) {
            broken.push(format!("{t}/{p}/{o} is poison and was not put aside"));
        }
    }
    broken
}

/// Every operator action has its row: who, when, why.
pub fn actions_are_audited(quiet: &Quiet<'_>) -> Vec<String> {
    quiet.each(|stored, entries| {
        let acted = quiet
            .state
            .clients
            .acted
            .iter()
            .filter(|(saga, word)| *saga == stored.saga.id && *word != "cancel");
        let audited = entries.iter().filter(|e| match &e.occurrence.event {
            Event::RetryRequested(by) => !by.who.is_empty() && !by.why.is_empty(),
            Event::Resolved(resolution) => !resolution.by.who.is_empty() && !resolution.by.why.is_empty(),
            _ => false,
        });
        let (acted, audited) = (acted.count(), audited.count());
        (acted > audited).then(|| format!("{acted} actions, {audited} entries"))
    })
}

/// No personal data in timelines or dead letters' reasons, nor in rows that are settled.
pub fn nothing_personal(quiet: &Quiet<'_>) -> Vec<String> {
    const PERSONAL: &str = "Street 1";
    let mut broken = quiet.each(|stored, _| {
        stored
            .entries
            .iter()
            .any(|(.., body)| body.contains(PERSONAL))
            .then(|| "an address in its timeline".to_owned())
    });
    broken.extend(
        quiet.state.bus.dead.iter().filter(|(.., why)| why.contains(PERSONAL)).map(|(.., why)| why.clone()),
    );
    for row in quiet.state.databases[2].rows.values() {
        let settled = !matches!(row.status, row::Status::Accepted | row::Status::Started);
        let command = row.command.as_ref().map(|c| c.payload.get().to_owned());
        if settled && command.is_some_and(|payload| payload.contains(PERSONAL)) {
            broken.push(format!("row {} is settled and keeps an address", row.key));
        }
    }
    broken
}

/// Whether an entry is an answer that says that something took effect.
pub fn is_success(entry: &Entry) -> bool {
    matches!(&entry.occurrence.event, Event::Replied(r) if r.outcome == Outcome::Succeeded && r.kind != Kind::Compensate)
}
