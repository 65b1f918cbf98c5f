//! Why nothing is happening: the kind of a saga's wait, what comes next, and one sentence that adds to the saga's own
//! what is known of its worker, the broker and the engines.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::explain;
use crate::core::{CommandState, Definition, Direction, Saga, Status, Undo};

/// Overdue by this, a saga has no engine: one that owns its slot would have acted, or put the work off.
const ENGINE_AWAY: TimeDelta = TimeDelta::seconds(30);
/// A command that was sent this long ago has reached its worker, if there is one.
const WORKER_ACTS_WITHIN: TimeDelta = TimeDelta::seconds(10);
/// Number of waiting messages from which a worker counts as behind.
const WORKER_BEHIND: i64 = 1_000;

macro_rules! kinds {
    ($($(#[doc = $about:literal])+ $name:ident => $word:literal,)*) => {
        /// Why a saga does not progress.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind {
            $($(#[doc = $about])+ $name,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Returns its word in the API.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

kinds! {
    /// A command was sent, and its deadline has not passed.
    WaitingForReply => "waiting_for_reply",
    /// The worker takes nothing from its topic, or has answered nothing for so long that repetitions are put off.
    WorkerAway => "worker_away",
    /// The worker takes commands, and many are ahead.
    WorkerBehind => "worker_behind",
    /// The worker fails most of its commands, so that repetitions are put off.
    WorkerFailing => "worker_failing",
    /// The last attempt failed, and the next one follows after the backoff.
    Backoff => "backoff",
    /// The outcome is unknown, and the engine asks for it.
    Probing => "probing",
    /// Parked: it cannot be found out whether a step took effect.
    ParkedOutcomeUnknown => "parked_outcome_unknown",
    /// Parked: a step could not be undone.
    ParkedCompensation => "parked_compensation",
    /// Parked: a step that can only go forward was not done.
    ParkedRetriable => "parked_retriable",
    /// Parked: its new events cannot be stored.
    Poisoned => "poisoned",
    /// It waits for an event from outside.
    WaitingForSignal => "waiting_for_signal",
    /// Its own timeout comes before anything else.
    TimeoutPending => "timeout_pending",
    /// It is being undone.
    Compensating => "compensating",
    /// It is being undone, and the worker takes nothing from its topic.
    CompensatingWorkerAway => "compensating_worker_away",
    /// It was cancelled while a command was outstanding, which is undone unseen.
    CancelledMeanwhile => "cancelled_meanwhile",
    /// It has ended, and an effect that was found later is being undone.
    OrphanBeingUndone => "orphan_being_undone",
    /// It is overdue: no engine owns its slot.
    EngineAway => "engine_away",
    /// The broker does not answer.
    BrokerAway => "broker_away",
    /// This program does not know its workflow in that version.
    UnknownVersion => "unknown_version",
    /// It has ended.
    Ended => "ended",
}

/// What is known beyond the saga's row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Whether the broker does not answer.
    pub is_broker_away: bool,
    /// The worker that the saga waits for, if the broker reports it.
    pub worker: Option<WorkerProgress>,
}

/// How far a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerProgress {
    /// Number of commands that it has not settled.
    pub lag: i64,
    /// Whether it has settled any while it was watched.
    pub is_settling: bool,
    /// Time of its last answer that is known.
    pub last_reply_at: Option<DateTime<Utc>>,
}

/// What the engine does next by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// When.
    pub at: DateTime<Utc>,
    /// `probe`, `retry`, `compensate`, `cancel` or `giveUp`.
    pub what: &'static str,
}

/// Why a saga does not progress, and what comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation {
    /// One sentence or a few, for an operator.
    pub sentence: String,
    /// The kind.
    pub kind: Kind,
    /// What the engine does next; `None` if it waits for an operator, or for nothing.
    pub next: Option<Next>,
}

/// Returns the command that a saga waits for: the newest that is parked, being undone, or unanswered.
pub fn awaited_command(saga: &Saga) -> Option<&CommandState> {
    let commands = || saga.state.commands.iter().rev();
    let parked = saga.parked.then(|| saga.parked_command()).flatten();
    parked.or_else(|| commands().find(|c| being_undone(c).is_some())).or_else(|| {
        let goes_forward = saga.state.direction == Direction::Forward;
        commands().find(|c| goes_forward && (c.status.is_open() || c.status == Status::Awaited))
    })
}

/// Returns the worker that a saga waits for.
pub fn awaited_participant(saga: &Saga, definition: &Definition) -> Option<&'static str> {
    let step = &definition.steps[awaited_command(saga)?.step];
    Some(step.participant).filter(|participant| !participant.is_empty())
}

/// Says why a saga does not progress. Without its definition, this program does not know its workflow in that version.
pub fn situation(
    saga: &Saga,
    definition: Option<&Definition>,
    around: &Surroundings,
    now: DateTime<Utc>,
) -> Situation {
    let (kind, next) = match definition {
        None => (Kind::UnknownVersion, None),
        Some(definition) => {
            let next = timers(saga, definition).into_iter().min_by_key(|next| next.at);
            (kind(saga, definition, around, now), next)
        }
    };
    let mut sentence = explain(saga, definition).sentence;
    let participant = definition.and_then(|definition| awaited_participant(saga, definition));
    if let Some(more) = around_it(saga, kind, participant, around) {
        sentence.push(' ');
        sentence.push_str(&more);
    }
    Situation { sentence, kind, next }
}

fn being_undone(command: &CommandState) -> Option<&Undo> {
    command.undo.as_ref().filter(|undo| !undo.done)
}

fn kind(saga: &Saga, definition: &Definition, around: &Surroundings, now: DateTime<Utc>) -> Kind {
    let command = awaited_command(saga);
    let undo = command.and_then(being_undone);
    if saga.state.poisoned.is_some() {
        return Kind::Poisoned;
    }
    if let Some(parked) = saga.parked.then(|| saga.parked_command()).flatten() {
        return match parked.status {
            _ if parked.undo.as_ref().is_some_and(|undo| undo.parked.is_some()) => Kind::ParkedCompensation,
            Status::Unknown | Status::Expired => Kind::ParkedOutcomeUnknown,
            _ => Kind::ParkedRetriable,
        };
    }
    if saga.outcome.is_some() && undo.is_none() {
        return Kind::Ended;
    }
    if saga.live && saga.wake_at.is_some_and(|at| at + ENGINE_AWAY < now) {
        return Kind::EngineAway;
    }
    if undo.is_none() && saga.awaited(definition).is_some() {
        return Kind::WaitingForSignal;
    }
    if around.is_broker_away {
        return Kind::BrokerAway;
    }
    // A saga that is not woken although something of it is due is put off: its worker fails, or is silent.
    let is_put_off = command.is_some_and(|c| c.due().is_some_and(|at| at <= now))
        && saga.wake_at.is_some_and(|at| at > now);
    let sent_at = undo.map(|undo| undo.issued_at).or(command.map(|c| c.sent_at.unwrap_or(c.issued_at)));
    let is_old = sent_at.is_some_and(|at| at + WORKER_ACTS_WITHIN <= now);
    let is_silent = around.worker.is_some_and(|worker| worker.lag > 0 && !worker.is_settling) && is_old;
    let has_failed = |failures: u32, asks: u32| failures > 0 && asks == 0;
    if let (Some(undo), Some(command)) = (undo, command) {
        let label = &definition.labels.cancelled;
        let cancelled = saga.state.labels.get(*label).map_or(*label, String::as_str);
        return match saga.heading_for.as_deref() {
            _ if saga.outcome.is_some() => Kind::OrphanBeingUndone,
            _ if is_silent || (is_put_off && !has_failed(undo.failures, undo.asks)) => {
                Kind::CompensatingWorkerAway
            }
            Some(label) if label == cancelled && command.status.is_open() => Kind::CancelledMeanwhile,
            _ => Kind::Compensating,
        };
    }
    let timeout_is_next = match (timeout(saga, definition), command.and_then(CommandState::due)) {
        (Some(timeout), Some(due)) => timeout <= due,
        (timeout, None) => timeout.is_some(),
        (None, Some(_)) => false,
    };
    match command.map(|command| command.status) {
        Some(Status::Backoff) if is_put_off => Kind::WorkerFailing,
        Some(_) if is_put_off || is_silent => Kind::WorkerAway,
        Some(Status::Backoff) => Kind::Backoff,
        Some(_) if around.worker.is_some_and(|worker| worker.lag >= WORKER_BEHIND) => Kind::WorkerBehind,
        Some(Status::Unknown) => Kind::Probing,
        _ if timeout_is_next => Kind::TimeoutPending,
        _ => Kind::WaitingForReply,
    }
}

/// Returns when the saga is cancelled by itself, unless it gets further before.
fn timeout(saga: &Saga, definition: &Definition) -> Option<DateTime<Utc>> {
    let ends = definition.timeout.filter(|timeout| !saga.has_succeeded(timeout.until_step));
    let goes_forward = saga.outcome.is_none() && saga.state.direction == Direction::Forward;
    saga.state.timeout_at.filter(|_| goes_forward && ends.is_some())
}

/// Returns what the engine does by itself: for the command that the saga waits for, and for the saga's timeout.
pub(super) fn timers(saga: &Saga, definition: &Definition) -> Vec<Next> {
    if saga.state.poisoned.is_some() {
        return Vec::new();
    }
    let of_command = awaited_command(saga).filter(|command| command.parked().is_none()).and_then(|command| {
        let what = match (being_undone(command), command.status) {
            (Some(_), _) => "compensate",
            (None, Status::Backoff) => "retry",
            (None, Status::Awaited) => "giveUp",
            (None, _) => "probe",
        };
        let due = being_undone(command).map_or(command.due_at, |undo| undo.due_at)?;
        // What is put off is done when the saga is woken.
        Some(Next { at: saga.wake_at.map_or(due, |wakes| due.max(wakes)), what })
    });
    let of_timeout = timeout(saga, definition).map(|at| Next { at, what: "cancel" });
    [of_timeout, of_command].into_iter().flatten().collect()
}

/// Returns what the surroundings add to the saga's own sentence.
fn around_it(saga: &Saga, kind: Kind, participant: Option<&str>, around: &Surroundings) -> Option<String> {
    match kind {
        Kind::EngineAway => {
            let since = saga.wake_at.map(time).unwrap_or_default();
            return Some(format!("It is overdue since {since}: no engine acts for it."));
        }
        Kind::BrokerAway => return Some("The broker does not answer: nothing can be sent.".to_owned()),
        Kind::Ended | Kind::Poisoned | Kind::UnknownVersion | Kind::WaitingForSignal => return None,
        _ => {}
    }
    let (participant, worker) = (participant?, around.worker?);
    let last = worker.last_reply_at.map(|at| format!("; its last known answer is of {}", time(at)));
    let last = last.unwrap_or_default();
    let commands = match worker.lag {
        1 => "1 command waits".to_owned(),
        lag => format!("{} commands wait", in_thousands(lag)),
    };
    match kind {
        Kind::WorkerAway | Kind::CompensatingWorkerAway if worker.lag > 0 && !worker.is_settling => {
            Some(format!("{participant} takes nothing from its topic, where {commands}{last}."))
        }
        Kind::WorkerAway | Kind::CompensatingWorkerAway => {
            Some(format!("{participant} does not answer, so that repetitions are put off{last}."))
        }
        Kind::WorkerFailing => {
            Some(format!("{participant} fails most of its commands, so that repetitions are put off{last}."))
        }
        _ if worker.lag > 0 => Some(format!("{commands} for {participant}{last}.")),
        _ => None,
    }
}

/// Writes a number with commas.
fn in_thousands(number: i64) -> String {
    let digits = number.to_string();
    let mut said = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            said.push(',');
        }
        said.push(digit);
    }
    said
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_with_commas() {
        let said = [0, 999, 1_000, 1_204, 1_000_000].map(in_thousands);
        assert_eq!(said, ["0", "999", "1,000", "1,204", "1,000,000"]);
    }

    #[test]
    fn each_kind_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(words.len(), Kind::ALL.len());
    }
}
