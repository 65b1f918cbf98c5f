//! Returns and refunds: no piece comes back twice, and never is more paid back than was captured.

use super::*;
use amends_workflows::order_ledger::{EntryKind, Standing};

/// Of each line, at most as many pieces come back as were ordered, whatever is under way; and the inventory has taken
/// back exactly the pieces of the returns that are done.
pub fn no_piece_comes_back_twice(quiet: &Quiet<'_>) -> Vec<String> {
    let (store, books) = (&quiet.state.store, &quiet.books);
    let mut broken = Vec::new();
    for order in store.added.keys() {
        let Some(ledger) = store.ledger(*order) else { continue };
        let counts = |standing| standing != Standing::Rejected;
        let returns = ledger.entries.iter().filter(|e| e.kind == EntryKind::Return && counts(e.standing));
        let mut coming: BTreeMap<&str, i64> = BTreeMap::new();
        for back in returns.flat_map(|entry| &entry.lines) {
            *coming.entry(&back.line_id).or_default() += back.quantity;
        }
        for (line, pieces) in coming {
            let ordered = line.parse().ok().and_then(|n: usize| ledger.lines.get(n.checked_sub(1)?));
            if ordered.is_none_or(|ordered| pieces > ordered.quantity) {
                broken.push(format!("{}: {pieces} pieces of line {line} come back", short(*order)));
            }
        }
    }
    let mut back: BTreeMap<(Uuid, &str), i64> = BTreeMap::new();
    for restock in &books.restocks {
        *back.entry((restock.reservation, &restock.product_id)).or_default() += restock.quantity;
    }
    for ((reservation, product), pieces) in back {
        let taken = books.reservations.get(&reservation).and_then(|lines| lines.get(product));
        let taken = taken.filter(|line| line.status == stock::Status::Taken).map_or(0, |line| line.quantity);
        if pieces > taken {
            broken.push(format!("{}: {pieces} of {taken} {product} came back", short(reservation)));
        }
    }
    broken.extend(quiet.each(|stored, _| {
        let saga = &stored.saga;
        if saga.workflow != order_return::NAME || !is_at_rest(saga) {
            return None;
        }
        let input: order_return::ReturnInput = stored.data.read().ok()?;
        let wanted: i64 = input.lines.iter().map(|line| line.quantity).sum();
        let held = quiet.held(saga);
        let back = held.iter().filter(|((kind, _), _)| kind == "stock_returned").map(|(_, n)| n).sum::<i64>();
        let right = if saga.outcome == Some(SagaOutcome::Completed) { wanted } else { 0 };
        (back != right).then(|| format!("{back} of {wanted} pieces are back in stock"))
    }));
    broken
}

/// What is paid back of a charge, and what the ledger of its order pays back, never exceeds what was captured.
pub fn never_more_than_was_captured(quiet: &Quiet<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    for (key, charge) in &quiet.state.outside.charges {
        let back: i64 = charge.back.values().map(|(_, amount)| amount).sum();
        if back > charge.amount || (back > 0 && charge.refund.is_some()) {
            broken.push(format!("{}: {back} of {} is paid back", short(*key), charge.amount));
        }
    }
    let store = &quiet.state.store;
    for order in store.added.keys() {
        let Some(ledger) = store.ledger(*order) else { continue };
        let counted = ledger.entries.iter().filter(|entry| entry.standing != Standing::Rejected);
        let amount: i64 = counted.map(|entry| entry.amount).sum();
        if amount > ledger.captured() {
            broken.push(format!(
                "{}: {amount} of {} is paid back or about to be",
                short(*order),
                ledger.captured()
            ));
        }
    }
    broken
}
