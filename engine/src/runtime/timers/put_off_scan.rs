//! Sagas that would fill batch after batch while they are put off: the timers scan them separately.

use std::collections::BTreeSet;

use amends_protocol::transport::Sink;
use chrono::{DateTime, Utc};

use super::{BATCH, Timers, due_scan};
use crate::{
    port::{Clock, DueScan, DueShare, SagaStore},
    runtime::{Engine, Error},
};

/// Sagas that wait for a participant that cannot be reached, and are due in such numbers that they would fill batch
/// after batch. They get scans of their own until all of them are put off, so that the others do not wait for that.
#[derive(Debug)]
pub(super) struct PutOffScan {
    pub(super) steps: Vec<&'static str>,
    /// Everything due before this time is put off already.
    from: Option<DateTime<Utc>>,
}

impl Timers {
    /// From now on scans these participants' sagas separately.
    pub(super) fn scan_separately<S, K, C>(
        &mut self,
        engine: &Engine<S, K, C>,
        unpaid: &BTreeSet<&'static str>,
    ) {
        let steps = engine.catalog.iter().flat_map(|definition| &definition.steps);
        let mut steps: Vec<_> =
            steps.filter(|step| unpaid.contains(step.participant)).map(|step| step.name).collect();
        if steps.is_empty() {
            return;
        }
        steps.extend(self.put_off_scan.take().into_iter().flat_map(|scan| scan.steps));
        steps.sort_unstable();
        steps.dedup();
        self.put_off_scan = Some(PutOffScan { steps, from: None });
    }

    /// Runs one scan of these sagas; returns the number of due sagas.
    pub(super) async fn look_at_put_off<S: SagaStore, K: Sink, C: Clock>(
        &mut self,
        engine: &Engine<S, K, C>,
        slots: Vec<u16>,
    ) -> Result<usize, Error> {
        let Some(PutOffScan { steps, from }) = &self.put_off_scan else { return Ok(0) };
        let share = DueShare::At(steps.clone());
        let scan = DueScan { share, ..due_scan(engine, slots, *from) };
        let due = engine.store.due(&scan).await?;
        let taken = self.wake(engine, due, Vec::new()).await?;
        match &mut self.put_off_scan {
            Some(scan) if taken.count >= BATCH as usize => scan.from = taken.last,
            scan => *scan = None,
        }
        Ok(taken.count)
    }
}
