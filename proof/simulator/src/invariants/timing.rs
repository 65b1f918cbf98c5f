//! Times: no timer is early or late, no patience is cut short, and a healthy system lets nothing time out.

use super::*;

/// No timer fires early by the database's clock (every scan checks this, too), and at the end none is late.
pub fn timers_are_on_time(quiet: &Quiet<'_>) -> Vec<String> {
    let now = quiet.state.now;
    quiet.each(|stored, _| {
        let due = quiet.state.store.simulated(stored.saga.wake_at.filter(|_| stored.saga.live)?);
        (due + 10 * SECOND < now).then(|| format!("is due since {} s", (now - due) / SECOND))
    })
}

/// A saga parks for an unknown outcome only after its command was answered `unknown`, and nothing else, for the whole
/// patience.
pub fn patience_is_kept(quiet: &Quiet<'_>) -> Vec<String> {
    // If a clock was set back in between, its times do not tell the duration.
    if quiet.state.store.set_back > 0 {
        return Vec::new();
    }
    quiet.each(|_, entries| {
        entries.iter().enumerate().find_map(|(at, parks)| {
            let Event::Replied(last) = &parks.occurrence.event else { return None };
            let parked = parks.did.parked.as_ref().is_some_and(|reason| reason.code == "outcome_unknown");
            if !parked || last.outcome != Outcome::Unknown {
                return None;
            }
            let undoes = last.kind == Kind::Compensate;
            let mut first = parks.occurrence.at;
            for (place, entry) in entries[..at].iter().enumerate().rev() {
                // The recovery of a poisoned saga leaves its command as it was.
                let parked =
                    |entry: &Entry| entry.did.parked.as_ref().map(|reason| reason.code == "poisoned");
                let mends_poison = || entries[..place].iter().rev().find_map(parked) == Some(true);
                match &entry.occurrence.event {
                    Event::RetryRequested(_) if mends_poison() => {}
                    Event::Replied(r) if r.step != last.step || (r.kind == Kind::Compensate) != undoes => {}
                    Event::Replied(_) if entry.did.noted.is_some() => {}
                    Event::Replied(r) if r.outcome == Outcome::Unknown => first = entry.occurrence.at,
                    Event::Replied(_) | Event::RetryRequested(_) => break,
                    _ => {}
                }
            }
            let waited = (parks.occurrence.at - first).to_std().unwrap_or_default();
            (waited < PATIENCE).then(|| format!("parked after {waited:?} of not knowing {}", last.step))
        })
    })
}

/// Whatever could not be sent or was not answered before: once the system is healthy, an order has its stock within a
/// minute. No order is cancelled for a timeout that ends later than that.
pub fn nothing_times_out_in_a_healthy_system(quiet: &Quiet<'_>) -> Vec<String> {
    let well_by = quiet.state.heals_at + 60 * SECOND;
    // A timeout keeps its time by the database's clock; a clock that is set back moves all of them.
    if quiet.state.store.set_back > 0 {
        return Vec::new();
    }
    quiet.each(|_, entries| {
        let timeout_at = entries.first()?.did.timeout_at?;
        // A parked saga waits for a person, not for the system.
        if entries.iter().any(|entry| entry.did.parked.is_some()) {
            return None;
        }
        let timed_out = |entry: &&Entry| {
            let given_up = entry.did.heading_for.is_some() || entry.did.ended.is_some();
            given_up && entry.occurrence.event == Event::Woke && entry.occurrence.at >= timeout_at
        };
        let cancelled = entries.iter().find(timed_out)?;
        let late = quiet.state.store.simulated(timeout_at).checked_sub(well_by)?;
        // An order that a timer cancelled after its timeout waited in vain for its stock.
        let label = cancelled.did.heading_for.as_deref().or(cancelled.did.label.as_deref());
        (label == Some(order::CANCELLED)).then(|| format!("timed out {} s after all was well", late / SECOND))
    })
}
