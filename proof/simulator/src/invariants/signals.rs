//! Signals: delivered early, late, twice and against each other, each takes effect at most once.

use super::*;

/// A saga records a signal at most once. What was acknowledged is what arrived, and a saga completes only if its signal
/// said yes.
pub fn signals_take_effect_once(quiet: &Quiet<'_>) -> Vec<String> {
    quiet.each(|stored, entries| {
        let saga = &stored.saga;
        let entries = entries.iter().filter_map(|entry| match &entry.occurrence.event {
            Event::Signalled(signal) => Some((signal.name.as_str(), signal.payload.get())),
            _ => None,
        });
        let entries: Vec<(&str, &str)> = entries.collect();
        let arrived: Vec<(&str, &str)> =
            saga.state.signals.iter().map(|signal| (signal.name.as_str(), signal.payload.get())).collect();
        if arrived != entries
            || arrived.iter().any(|(name, _)| arrived.iter().filter(|(n, _)| n == name).count() > 1)
        {
            return Some(format!("recorded {entries:?}, and {arrived:?} took effect"));
        }
        let told = quiet.state.clients.signalled.iter().filter(|(to, ..)| *to == saga.id);
        let forgotten: Vec<(&str, &str)> = (quiet.state.losses.of(saga.id))
            .filter_map(|entry| match &entry.occurrence.event {
                Event::Signalled(signal) => Some((signal.name.as_str(), signal.payload.get())),
                _ => None,
            })
            .collect();
        let is_there = |told: (&str, &str)| arrived.contains(&told) || forgotten.contains(&told);
        let mut untrue = told.filter(|(_, name, payload)| !is_there((*name, payload.as_str())));
        if let Some((_, name, payload)) = untrue.next() {
            return Some(format!("{name} {payload} was acknowledged, and {arrived:?} arrived"));
        }
        let awaited = quiet.definition(saga).steps.iter().filter(|step| step.signal.is_some());
        let missing =
            awaited.map(|step| step.name).find(|step| !arrived.iter().any(|(name, _)| name == step));
        let completed = saga.outcome == Some(SagaOutcome::Completed);
        missing.filter(|_| completed).map(|step| format!("completed without the signal {step}"))
    })
}
