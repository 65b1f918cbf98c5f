//! The parts of a batch of commands: which of them are new, and what to do about a part that cannot be committed.

use std::collections::{HashMap, VecDeque};

use amends_protocol::{
    halving::{Halved, halve},
    wire,
};
use chrono::{DateTime, Utc};

use crate::{
    decide::{Decision, decide},
    inbox::Delivery,
    settings::Settings,
    store::Locks,
};

/// Splits a batch: executes that are the only command for their row and that a worker without that row would run at
/// once, and all the rest.
pub(crate) fn split_new(
    deliveries: Vec<Delivery>,
    now: DateTime<Utc>,
    settings: &Settings,
) -> (Vec<Delivery>, Vec<Delivery>) {
    let memory = settings.memory();
    let mut counts: HashMap<_, usize> = HashMap::with_capacity(deliveries.len());
    for delivery in &deliveries {
        *counts.entry(delivery.command.row_key()).or_default() += 1;
    }
    deliveries.into_iter().partition(|Delivery { command, .. }| {
        counts.get(&command.row_key()) == Some(&1)
            && !wire::is_newer(command.schema_version)
            && decide(None, command, now, memory) == Decision::Execute
    })
}

/// How many times one batch waits for locked rows before it leaves the commands that are not done yet.
const LOCK_TIMEOUTS_MAX: u32 = 8;

/// A part of a batch: one transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) deliveries: &'a [Delivery],
    /// What the transaction does about rows that others hold.
    pub(crate) locks: Locks,
}

/// The parts of a batch. A part whose data is at fault is halved until the command that causes it is alone. A part that
/// waited in vain for locked rows is done again without those rows.
pub(crate) struct Parts<'a> {
    parts: VecDeque<Part<'a>>,
    lock_timeouts: u32,
}

impl<'a> Parts<'a> {
    pub(crate) fn new(deliveries: &'a [Delivery], locks: Locks) -> Self {
        Self { parts: VecDeque::from([Part { deliveries, locks }]), lock_timeouts: 0 }
    }

    pub(crate) fn next(&mut self) -> Option<Part<'a>> {
        self.parts.pop_front()
    }

    /// Puts back the halves of a part, in order; returns the poison if the part cannot be halved.
    pub(crate) fn halve(&mut self, part: Part<'a>) -> Option<&'a Delivery> {
        match halve(part.deliveries)? {
            Halved::Alone(poison) => Some(poison),
            Halved::Halves(first, second) => {
                self.parts.push_front(Part { deliveries: second, ..part });
                self.parts.push_front(Part { deliveries: first, ..part });
                None
            }
        }
    }

    /// Handles a part that waited in vain for a row that another transaction holds: it is done again, passing such rows
    /// over. If that fails too (a row being inserted is invisible, and so cannot be passed over), the part is halved
    /// until the command that needs the row is alone. That command is left; the engine sends it again. So are all
    /// others once the batch has waited often enough.
    pub(crate) fn pass_over(&mut self, part: Part<'a>, settings: &Settings) {
        self.lock_timeouts += 1;
        if self.lock_timeouts > LOCK_TIMEOUTS_MAX {
            return count_passed_over(settings, part.deliveries.len());
        }
        match part.locks {
            Locks::Wait => self.parts.push_front(Part { locks: Locks::PassOver, ..part }),
            Locks::PassOver => {
                if self.halve(part).is_some() {
                    count_passed_over(settings, 1);
                }
            }
        }
    }
}

/// Counts commands (or outcomes) that were left because other transactions held their rows.
pub(crate) fn count_passed_over(settings: &Settings, commands: usize) {
    if commands > 0 {
        tracing::warn!(
            worker = settings.name,
            commands,
            "commands were passed over: another transaction holds their rows"
        );
        metrics::counter!("amends_worker_passed_over_total", "worker" => settings.name.clone())
            .increment(commands as u64);
    }
}
