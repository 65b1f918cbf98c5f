//! The meaning of an answer to an execute: every status of the command × every outcome, in one table.
//!
//! The rules are those of PROTOCOL, "The engine's side".

use std::cmp::Ordering;

use amends_protocol::{Kind, Outcome};

use crate::core::Status;

/// What an answer means for its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The answer settles the command.
    Settle(Status),
    /// The attempt failed; another follows if the policy allows one.
    TryAgain,
    /// The command never arrived or had no effect: send the same command again.
    SendAgain,
    /// The outcome is unknown: send a probe.
    Ask,
    /// A probe was answered, and the outcome is still unknown.
    StillUnknown,
    /// The worker cannot read the command yet: hold it and send it again later.
    HoldOff,
    /// A success of a command that was settled as having no effect.
    Orphan,
    /// The answer is unexpected: record it once, and change nothing else.
    Note,
    /// The answer is already recorded, or the worker is still executing: there is nothing to write.
    Nothing,
}

/// Looks up the verdict. `kind` is the answered command's kind; answers to compensations are not in this table.
/// `attempt` compares the answer's attempt with the command's.
pub fn verdict(status: Status, kind: Kind, outcome: Outcome, attempt: Ordering) -> Verdict {
    use Outcome as O;
    use Status as S;
    use Verdict as V;
    let asked = kind != Kind::Execute;
    match (status, outcome) {
        (_, O::InFlight) => V::Nothing,
        // A wait for a signal has no command that a reply could answer.
        (S::Awaited, _) => V::Note,

        (S::Waiting | S::Unknown | S::Backoff, O::Succeeded) => V::Settle(S::Succeeded),
        (S::Waiting | S::Unknown | S::Backoff, O::Refused) => V::Settle(S::Refused),
        (S::Waiting | S::Unknown | S::Backoff, O::FailedForGood) => V::Settle(S::Failed),
        (S::Waiting | S::Unknown | S::Backoff, O::Fenced) => V::Settle(S::Fenced),
        (S::Waiting | S::Unknown | S::Backoff, O::Expired) => V::Settle(S::Expired),
        (S::Waiting | S::Unknown, O::Unsupported) => V::HoldOff,
        (S::Backoff, O::Unsupported) => V::Nothing,

        // In answer to a probe, the failure of an older attempt means the same as "not seen".
        (S::Unknown, O::FailedTransient) if attempt == Ordering::Less && asked => V::SendAgain,
        (S::Waiting, O::FailedTransient) if attempt == Ordering::Less && asked => V::Nothing,
        (S::Waiting | S::Unknown, O::FailedTransient) if attempt == Ordering::Less => V::Note,
        (S::Backoff, O::FailedTransient) if attempt == Ordering::Less => V::Nothing,
        (S::Waiting | S::Unknown | S::Backoff, O::FailedTransient) => V::TryAgain,

        (S::Unknown, O::NotSeen) if asked => V::SendAgain,
        (S::Waiting | S::Backoff, O::NotSeen) if asked => V::Nothing,
        (S::Waiting | S::Unknown | S::Backoff, O::NotSeen) => V::Note,

        (S::Waiting, O::Unknown) => V::Ask,
        (S::Unknown, O::Unknown) if asked => V::StillUnknown,
        (S::Unknown, O::Unknown) => V::Nothing,
        (S::Backoff, O::Unknown) => V::Note,

        (S::Expired, O::Succeeded) => V::Settle(S::Succeeded),
        (S::Refused | S::NotDone | S::Failed | S::Fenced, O::Succeeded) => V::Orphan,
        (S::Succeeded, O::Succeeded)
        | (S::Refused, O::Refused)
        | (S::Failed, O::FailedForGood | O::FailedTransient)
        | (S::Fenced, O::Fenced)
        | (S::Expired, O::Expired) => V::Nothing,
        // A settled command does not change. An outcome that contradicts it is recorded.
        (S::Succeeded | S::Refused | S::NotDone | S::Failed | S::Fenced | S::Expired, _) => V::Note,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    #[test]
    fn every_answer_to_every_status_is_decided_as_agreed() {
        let mut table = String::new();
        for (title, kind, attempt) in [
            ("an execute's answer, of its attempt", Kind::Execute, Ordering::Equal),
            ("an execute's answer, of an older attempt", Kind::Execute, Ordering::Less),
            ("an execute's answer, of a later attempt", Kind::Execute, Ordering::Greater),
            ("a probe's answer, of its attempt", Kind::Probe, Ordering::Equal),
            ("a probe's answer, of an older attempt", Kind::Probe, Ordering::Less),
        ] {
            let row = |name: &str, cells: [String; 10]| {
                let cells: String = cells.iter().map(|cell| format!("{cell:<13}")).collect();
                format!("{name:<17}{}\n", cells.trim_end())
            };
            write!(table, "{title}\n{}", row("", Status::ALL.map(|s| format!("{s:?}")))).unwrap();
            for outcome in Outcome::ALL {
                let cells = Status::ALL.map(|status| match verdict(status, kind, outcome, attempt) {
                    Verdict::Settle(status) => format!("={status:?}"),
                    other => format!("{other:?}"),
                });
                table.push_str(&row(outcome.as_str(), cells));
            }
            table.push('\n');
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn only_a_success_or_a_refusal_settles_an_open_command_as_done_or_refused() {
        for status in Status::ALL.into_iter().filter(|s| s.is_open()) {
            for outcome in Outcome::ALL {
                for kind in [Kind::Execute, Kind::Probe, Kind::Fence] {
                    for attempt in [Ordering::Less, Ordering::Equal, Ordering::Greater] {
                        let settled = verdict(status, kind, outcome, attempt);
                        assert_eq!(
                            settled == Verdict::Settle(Status::Succeeded),
                            outcome == Outcome::Succeeded
                        );
                        assert_eq!(settled == Verdict::Settle(Status::Refused), outcome == Outcome::Refused);
                    }
                }
            }
        }
    }
}
