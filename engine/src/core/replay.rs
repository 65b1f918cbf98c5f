//! Rebuilds a saga's row from its timeline.

use std::time::Duration;

use super::{Decision, Definition, Entry, Event, NewSaga, Saga, transition, transition::born};

/// Where a timeline and the core disagree.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Mismatch {
    /// The timeline does not begin with the saga's birth.
    #[error("the first entry is not the saga's birth")]
    Birth,
    /// A revision is missing or appears twice.
    #[error("revision {found} where {expected} should be")]
    Gap {
        /// The expected revision.
        expected: u32,
        /// The revision found.
        found: u32,
    },
    /// The core would have decided differently.
    #[error("revision {0}: the core now decides otherwise")]
    Decision(u32),
}

/// Replays a timeline through the core.
///
/// # Errors
/// The first [`Mismatch`].
pub fn replay(definition: &Definition, new: NewSaga, entries: &[Entry]) -> Result<Saga, Mismatch> {
    let (first, rest) = entries.split_first().ok_or(Mismatch::Birth)?;
    let (1, Event::Started(input)) = (first.revision, &first.occurrence.event) else {
        return Err(Mismatch::Birth);
    };
    // The timeout of the birth entry counts, not that of the present definition. The trace is known only there.
    let new = NewSaga { trace: first.did.trace, ..new };
    let mut saga =
        born(first.core_version, definition, new, input, first.occurrence.at, first.did.timeout_at).saga;
    for entry in rest {
        if entry.revision != saga.revision + 1 {
            return Err(Mismatch::Gap { expected: saga.revision + 1, found: entry.revision });
        }
        // The replay uses the rules that decided the entry, not the newest.
        saga.core_version = entry.core_version;
        match transition(&promised(definition, entry), &saga, &entry.occurrence) {
            Decision::Changed(change) if change.entry.did == entry.did => saga = change.saga,
            _ => return Err(Mismatch::Decision(entry.revision)),
        }
    }
    Ok(saga)
}

/// Returns the definition with the patience that it had at this entry, not its present one. An entry without a patience
/// leaves it as it was, and so does a patience above the maximum.
fn promised(definition: &Definition, entry: &Entry) -> Definition {
    let patience = entry.did.parks_at.map_or(Ok(Duration::MAX), |at| (at - entry.occurrence.at).to_std());
    Definition { unknown_patience: patience.unwrap_or(definition.unknown_patience), ..definition.clone() }
}
