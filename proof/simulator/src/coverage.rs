//! What a campaign has met: faults, and which event came in which state.

use std::collections::{BTreeMap, BTreeSet};

use amends_engine::core::{CommandState, Status};
use amends_protocol::{Kind, Outcome, wire};
use uuid::Uuid;

use crate::{faults::Fault, world::WorldState};

/// What was met in one run, or in many.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    /// Number of occurrences of each fault.
    pub faults: BTreeMap<Fault, u64>,
    /// Number of occurrences of an event in a state.
    pub pairs: BTreeMap<(&'static str, String), u64>,
    /// Writes that came too late, and changed nothing.
    pub stale_writes: u64,
    /// Sagas whose newest commit was found to be lost.
    pub lost_sagas: u64,
    /// Transactions that waited for each other.
    pub deadlocks: u64,
    /// States of workers' rows.
    pub rows: BTreeSet<&'static str>,
    /// Replies that could not be judged on arrival, by reason.
    pub deferred: BTreeMap<&'static str, u64>,
    /// Replies that changed nothing and were noted, by reason.
    pub odd: BTreeMap<&'static str, u64>,
}

/// The states of a command that a reply may meet.
pub const STATES: [&str; 15] = [
    "waiting",
    "unknown",
    "unknown, parked",
    "backoff",
    "succeeded",
    "refused",
    "failed",
    "failed, parked",
    "fenced",
    "expired",
    "not done",
    "undo sent",
    "undo parked",
    "undone",
    "poisoned",
];
/// The states of a saga that people and timers may meet.
pub const SAGAS: [&str; 5] = ["running", "compensating", "parked", "completed", "undone"];

fn state_of(command: &CommandState) -> &'static str {
    match (&command.undo, command.status) {
        (Some(undo), _) if undo.done => "undone",
        (Some(undo), _) if undo.parked.is_some() => "undo parked",
        (Some(_), _) => "undo sent",
        (None, Status::Unknown) if command.parked.is_some() => "unknown, parked",
        (None, Status::Waiting) => "waiting",
        (None, Status::Unknown) => "unknown",
        (None, Status::Backoff) => "backoff",
        (None, Status::Succeeded) => "succeeded",
        (None, Status::Refused) if command.parked.is_some() => "failed, parked",
        (None, Status::Failed) if command.parked.is_some() => "failed, parked",
        (None, Status::Refused) => "refused",
        (None, Status::Failed) => "failed",
        (None, Status::Fenced) => "fenced",
        (None, Status::Expired) => "expired",
        (None, Status::NotDone) => "not done",
        (None, Status::Awaited) => "awaited",
    }
}

impl WorldState {
    /// Records that a reply reaches an engine: which event, in which state of its command.
    pub fn meet_reply(&mut self, bytes: &[u8]) {
        let Ok(reply) = wire::reply(bytes) else { return };
        let Some(stored) = self.store.sagas.get(&reply.saga_id) else { return };
        let key = reply.row_key();
        let found = (stored.saga.state.commands.iter().rev())
            .find(|c| amends_protocol::id::execute(reply.saga_id, &reply.step, c.part, c.generation) == key);
        let Some(command) = found else { return };
        let state = if stored.saga.state.poisoned.is_some() { "poisoned" } else { state_of(command) };
        let event = format!("{} {}", reply.kind.as_str(), reply.outcome.as_str());
        *self.coverage.pairs.entry((state, event)).or_default() += 1;
    }

    /// Records an action of a person, or a timer.
    pub fn meet_action(&mut self, saga: Uuid, action: &'static str) {
        if let Some(stored) = self.store.sagas.get(&saga) {
            let state = stored.saga.state().as_str();
            *self.coverage.pairs.entry((state, action.to_owned())).or_default() += 1;
        }
    }
}

impl Coverage {
    /// Adds another run's coverage.
    pub fn add(&mut self, other: Coverage) {
        other.faults.into_iter().for_each(|(fault, n)| *self.faults.entry(fault).or_default() += n);
        other.pairs.into_iter().for_each(|(pair, n)| *self.pairs.entry(pair).or_default() += n);
        self.stale_writes += other.stale_writes;
        self.lost_sagas += other.lost_sagas;
        self.deadlocks += other.deadlocks;
        self.rows.extend(other.rows);
        other.deferred.into_iter().for_each(|(why, n)| *self.deferred.entry(why).or_default() += n);
        other.odd.into_iter().for_each(|(why, n)| *self.odd.entry(why).or_default() += n);
    }

    /// Returns every possible pair.
    fn all() -> Vec<(&'static str, String)> {
        let kinds = [Kind::Execute, Kind::Probe, Kind::Compensate];
        let replies = kinds.into_iter().flat_map(|kind| {
            Outcome::ALL.into_iter().map(move |outcome| format!("{} {}", kind.as_str(), outcome.as_str()))
        });
        let replies: Vec<String> = replies.collect();
        let of_commands = STATES.iter().flat_map(|s| replies.iter().map(move |r| (*s, r.clone())));
        let actions = ["cancel", "retry", "resend", "resolve done", "resolve notDone", "signal"];
        let of_sagas = SAGAS.iter().flat_map(|s| actions.iter().map(move |a| (*s, (*a).to_owned())));
        of_commands.chain(of_sagas).collect()
    }

    /// Returns a table for people.
    pub fn report(&self) -> String {
        let mut text = String::from("faults met:\n");
        for fault in Fault::ALL {
            text += &format!("  {:<26}{:>10}\n", fault.word(), self.faults.get(fault).unwrap_or(&0));
        }
        text += format!("  {:<26}{:>10}\n\n", "writes of a zombie", self.stale_writes).trim_end_matches('\n');
        text += &format!("\n  {:<26}{:>10}\n", "deadlocks of a worker", self.deadlocks);
        text += &format!("  {:<26}{:>10}\n", "lost commits noticed", self.lost_sagas);
        for (why, n) in &self.deferred {
            text += &format!("  {:<26}{n:>10}\n", format!("replies deferred: {why}"));
        }
        for (why, n) in &self.odd {
            text += &format!("  {:<26}{n:>10}\n", format!("odd: {why}"));
        }
        text.push('\n');
        text += &format!(
            "states of a worker's row met: {}\n\n",
            self.rows.iter().copied().collect::<Vec<_>>().join(", ")
        );
        let all = Self::all();
        let met = all.iter().filter(|pair| self.pairs.contains_key(*pair)).count();
        text += &format!("state × event: {met} of {} pairs met\n", all.len());
        for ((state, event), n) in &self.pairs {
            text += &format!("  {state:<18}{event:<28}{n:>10}\n");
        }
        text += "never met:\n";
        let mut by_state: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (state, event) in all.iter().filter(|pair| !self.pairs.contains_key(*pair)) {
            by_state.entry(state).or_default().push(event);
        }
        for (state, events) in by_state {
            text += &format!("  {state}: {}\n", events.join(", "));
        }
        text
    }
}
