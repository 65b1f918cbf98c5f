//! The books of stock, gateway and carrier: invariants 1, 2, 4, 5, 6.

use super::*;

/// Stock, per product: initial + adjustments = on hand + shipped; reserved = what reservations hold; none negative.
pub fn stock_balances(quiet: &Quiet<'_>) -> Vec<String> {
    let db = &quiet.state.databases[0];
    let mut broken = Vec::new();
    for (product, initial) in PRODUCTS {
        let Some(stock) = db.stock.get(product) else { continue };
        let lines = db.reservations.values().filter_map(|lines| lines.get(product));
        let held: i64 = lines.filter(|l| l.status == stock::Status::Held).map(|l| l.quantity).sum();
        let sums = stock.on_hand + stock.shipped == initial && stock.reserved == held;
        let taken = db.reservations.values().filter_map(|lines| lines.get(product));
        let taken: i64 = taken.filter(|l| l.status == stock::Status::Taken).map(|l| l.quantity).sum();
        let back: i64 = db.restocks.iter().filter(|r| r.product_id == product).map(|r| r.quantity).sum();
        let sums = sums && stock.shipped == taken - back;
        let negative =
            stock.on_hand < 0 || stock.reserved < 0 || stock.shipped < 0 || stock.on_hand < stock.reserved;
        if !sums || negative {
            broken.push(format!("{product}: {stock:?}, {initial} at first, {held} held"));
        }
    }
    broken
}

/// Per saga the engine's ledger equals the workers' books, or its unknown part covers the difference. In total, what
/// was captured and not refunded is the value of what was shipped, plus what parked sagas hold.
pub fn money_balances(quiet: &Quiet<'_>) -> Vec<String> {
    let mut broken = quiet.each(|stored, _| {
        let input = Input { data: &stored.data, personal: None };
        let (certain, possible) = stored.saga.holds(quiet.definition(&stored.saga), input);
        let amount = |of: &[Exposure], kind: &str, unit: &str| -> i64 {
            of.iter().filter(|e| e.kind == kind && e.unit == unit).map(|e| e.amount).sum()
        };
        let books = quiet.held(&stored.saga);
        let units: BTreeSet<(String, String)> = (books.keys().cloned())
            .chain(certain.iter().map(|e| (e.kind.clone(), e.unit.clone())))
            // What an operator pays back by hand is in the books before it is resolved.
            .filter(|(kind, _)| {
                !matches!(kind.as_str(), "stock_reserved" | "money_refunded") || !stored.saga.parked
            })
            // The label of a shipped order stays bought.
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
    let charges = quiet.books.charges.values();
    let kept: i64 = charges
        .filter(|c| c.declined.is_none() && c.refund.is_none())
        .map(|c| c.amount - c.back.values().map(|(_, amount)| amount).sum::<i64>())
        .sum();
    let money = |stored: &Stored| {
        let held = quiet.held(&stored.saga);
        held.into_iter().filter(|((kind, _), _)| kind == "money_captured").map(|(_, n)| n).sum::<i64>()
    };
    let paid_back = |stored: &Stored| {
        let held = quiet.held(&stored.saga);
        held.into_iter().filter(|((kind, _), _)| kind == "money_refunded").map(|(_, n)| n).sum::<i64>()
    };
    let owed: i64 = (quiet.sagas.iter())
        .map(|(s, _)| match s.saga.outcome {
            _ if !fulfils(&s.saga) => -paid_back(s),
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

/// There is no reservation, charge or booking without a saga, or of an ended saga that does not hold it.
pub fn no_orphans(quiet: &Quiet<'_>) -> Vec<String> {
    let mut known = BTreeSet::new();
    for (stored, _) in &quiet.sagas {
        let definition = quiet.definition(&stored.saga);
        known.extend(stored.saga.state.commands.iter().map(|c| c.id(stored.saga.id, definition)));
    }
    let effects = (quiet.books.charges.keys())
        .chain(quiet.books.bookings.keys())
        .chain(quiet.books.reservations.keys());
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
        if !is_at_rest(saga) || !fulfils(saga) {
            return None;
        }
        let keys: Vec<Uuid> =
            saga.state.commands.iter().map(|c| c.id(saga.id, quiet.definition(saga))).collect();
        let books = &quiet.books;
        let charges = keys.iter().filter_map(|k| books.charges.get(k));
        let charges = charges.filter(|c| c.declined.is_none() && c.refund.is_none()).count();
        let bookings = keys.iter().filter_map(|k| books.bookings.get(k));
        let bookings = bookings.filter(|b| b.tracking.is_some() && b.cancelled.is_none()).count();
        let reservations = &books.reservations;
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

/// There is at most one effect for a saga, step, part and generation, judged from the workers' databases.
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
            let key = command.id(stored.saga.id, quiet.definition(&stored.saga));
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
