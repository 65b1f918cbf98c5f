//! What is promised where the engine's database has gone back to an earlier moment.

use amends_protocol::{TokenKey, wire};
use amends_workflows as workflows;

use super::*;
use crate::{losses::LostEntry, processes::REVIEWED};

impl Quiet<'_> {
    /// Returns whether an unreadable message is, to engines of a later epoch or of a store that has forgotten its command,
    /// a reply from before a loss.
    pub(super) fn may_be_outdated(&self, bytes: &[u8]) -> bool {
        let Ok(reply) = wire::reply(bytes) else { return false };
        let (losses, epoch) = (&self.state.losses, self.state.store.epoch);
        let verified = TokenKey::new([7; 32]).verifies(reply.command_id, &reply.reply_token);
        let is_known = self.state.store.sagas.contains_key(&reply.saga_id);
        let lost = !is_known || losses.commands.contains_key(&reply.row_key());
        // An undo may be lost, and not its command.
        let lost = lost || losses.of(reply.saga_id).next().is_some();
        losses.any() && verified && reply.epoch <= epoch && (reply.epoch < epoch || lost)
    }
}

/// Every effect that the store has forgotten, and nobody ordered again, is listed as a stray once its worker's reply was
/// read; and so is every undo. Also, no reply of that kind names an effect that nobody ever ordered.
pub fn strays_list_what_was_lost(quiet: &Quiet<'_>) -> Vec<String> {
    let mut broken = quiet.books.unlisted.clone();
    if quiet.state.losses.any() {
        return broken;
    }
    let strays = quiet.state.store.strays.keys();
    broken.extend(strays.map(|(saga, command)| format!("{}: {command} is a stray", short(*saga))));
    broken
}

/// No two events have the same id, whatever the store has forgotten in between: readers drop what they know. (After a loss
/// that nobody has noticed, and so in the same epoch, they may.)
pub fn event_ids_are_unique(quiet: &Quiet<'_>) -> Vec<String> {
    let losses = &quiet.state.losses;
    let workflows = workflows::all(&workflows::Settings::default());
    // The simulation's own workflow has the events of the one that it is made of.
    let published = |workflow: &str, saga: Uuid, entry: &Entry| {
        let workflow = if workflow == REVIEWED { order::NAME } else { workflow };
        let version = workflows.newest(workflow).map_or(0, |newest| newest.definition.version);
        workflows.domain_events(workflow, version, saga, "", entry, 0)
    };
    let mut seen: BTreeMap<String, Entry> = BTreeMap::new();
    let mut broken = Vec::new();
    let there = quiet.sagas.iter().flat_map(|(stored, entries)| {
        entries.iter().map(|entry| (stored.saga.workflow.as_str(), stored.saga.id, entry))
    });
    let known = losses.entries.iter().filter(|lost| losses.known[lost.loss]);
    let lost = known.map(|LostEntry { workflow, saga, entry, .. }| (workflow.as_str(), *saga, entry));
    for (workflow, saga, entry) in there.chain(lost) {
        for event in published(workflow, saga, entry) {
            let other = seen.insert(event.id.clone(), entry.clone());
            if other.is_some_and(|other| other != *entry) {
                broken.push(format!("{} are two events", event.id));
            }
        }
    }
    broken
}
