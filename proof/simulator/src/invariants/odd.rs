//! The notes of replies that changed nothing.

use std::collections::BTreeSet;

use amends_protocol::wire;

use super::Quiet;
use crate::{bus::REPLIES, faults::Fault, store::short};

/// Faults by which the note of an odd reply may be lost.
const NOTES_LOST_BY: [Fault; 10] = [
    Fault::Crash,
    Fault::CrashAtPort,
    Fault::Freeze,
    Fault::Partition,
    Fault::Outage,
    Fault::Refusal,
    Fault::Upgrade,
    Fault::HomeAway,
    Fault::Restore,
    Fault::Failover,
];

/// Noted dead replies are on the dead letter topic. And dead letters of a saga are noted beside it, unless a fault
/// occurred by which a note may be lost, because nothing waits for it.
pub fn odd_replies_are_noted(quiet: &Quiet<'_>) -> Vec<String> {
    let (bus, odd) = (&quiet.state.bus, &quiet.state.store.odd);
    let dead: BTreeSet<(usize, usize, usize)> = bus.dead.iter().map(|(t, p, o, _)| (*t, *p, *o)).collect();
    let mut broken = Vec::new();
    for ((saga, reason), note) in odd.iter().filter(|((_, reason), _)| reason.is_dead_lettered()) {
        let place = (REPLIES, note.last.partition as usize, note.last.offset as usize);
        if !dead.contains(&place) {
            broken.push(format!("{}: {} at {place:?} is no dead letter", short(*saga), reason.as_str()));
        }
    }
    let loses_notes = |fault: &&Fault| NOTES_LOST_BY.contains(fault);
    if Fault::ALL.iter().filter(loses_notes).any(|fault| quiet.state.plan.struck[*fault as usize] > 0) {
        return broken;
    }
    for (topic, partition, offset) in dead.into_iter().filter(|(topic, ..)| *topic == REPLIES) {
        let record = bus.at(topic, partition, offset);
        let Some(reply) = record.and_then(|record| wire::reply(&record.bytes).ok()) else { continue };
        let mut reasons = odd.keys().filter(|(saga, _)| *saga == reply.saga_id);
        let known = quiet.state.store.sagas.contains_key(&reply.saga_id);
        if known && !reasons.any(|(_, reason)| reason.is_dead_lettered()) {
            broken.push(format!("{}: a dead reply is not noted", short(reply.saga_id)));
        }
    }
    broken
}
