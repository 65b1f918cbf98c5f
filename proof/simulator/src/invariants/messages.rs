//! Invariants of what is left of messages: deferred replies, dead letters, personal data.

use std::collections::BTreeSet;

use amends_worker::row;

use super::Quiet;
use crate::{bus::Poison, store::short};

/// No reply waits for an engine any more. A success from before a loss waits for the end of its saga, which may be parked.
pub fn every_reply_is_judged(quiet: &Quiet<'_>) -> Vec<String> {
    let left =
        quiet.state.store.deferred.values().filter(|(_, reply)| !quiet.state.store.waits_for_its_end(reply));
    left.map(|(_, reply)| format!("a reply for {} is left ({})", short(reply.saga_id), reply.why.as_str()))
        .collect()
}

/// The dead letters are the injected poison. Where the store has gone back, a reply with the right token is judged by
/// its epoch and by whether its command is known, before anything else.
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
        let must = record.poison == Some(Poison::Unreadable) && !quiet.may_be_outdated(&record.bytes);
        if consumed && must && !dead.contains(&(t, p, o)) {
            broken.push(format!("{t}/{p}/{o} is poison and was not put aside"));
        }
    }
    broken
}

/// There is no personal data in timelines, in reasons of dead letters, or in settled rows; and no contact in a command.
pub fn nothing_personal(quiet: &Quiet<'_>) -> Vec<String> {
    const ADDRESS: &str = "Street 1";
    const CONTACT: &str = "street-1.example";
    let is_personal = |text: &str| text.contains(ADDRESS) || text.contains(CONTACT);
    let mut broken = quiet.each(|stored, _| {
        let found = stored.entries.iter().any(|(.., body)| is_personal(body));
        found.then(|| "personal data in its timeline".to_owned())
    });
    broken.extend(quiet.state.bus.dead.iter().map(|(.., why)| why.clone()).filter(|why| is_personal(why)));
    for row in quiet.state.databases[2].rows.values() {
        let settled = !matches!(row.status, row::Status::Accepted | row::Status::Started);
        let Some(payload) = row.command.as_ref().map(|c| c.payload.get()) else { continue };
        if settled && is_personal(payload) || payload.contains(CONTACT) {
            broken.push(format!("row {} keeps personal data that it does not need", row.key));
        }
    }
    broken
}
