//! Continues from the rows, not from the transport: begins the calls of rows that are due.

use std::sync::Arc;

use amends_protocol::transport::Sink;
use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use super::{Call, Error, Shared, call};
use crate::{
    executor::ExternalExecutor,
    row::Status,
    store::{Due, Rows},
    timer::{Backoff, Timer},
    unit_of_work::UnitOfWork,
};

/// The loop that begins and resumes calls from their rows.
pub struct Recovery<R, E, K, C> {
    shared: Arc<Shared<R, E, K, C>>,
}

impl<R, E, K, C> Recovery<R, E, K, C>
where
    R: Rows,
    E: ExternalExecutor,
    K: Sink,
    C: Timer,
{
    pub(super) fn new(shared: Arc<Shared<R, E, K, C>>) -> Self {
        Self { shared }
    }

    pub(super) async fn run(&mut self, stop: &CancellationToken) {
        let mut backoff = Backoff::default();
        let renewing = self.renew_for_ever().fuse();
        futures::pin_mut!(renewing);
        while !stop.is_cancelled() {
            let resumed = futures::select_biased! {
                resumed = self.resume().fuse() => resumed,
                never = renewing => match never {},
            };
            match resumed {
                Ok(()) => backoff.reset(),
                Err(error) => self.shared.pause(&mut backoff, &error, stop).await,
            }
            let interval = self.shared.timer.sleep(self.shared.settings.recovery_interval);
            futures::select_biased! {
                () = stop.cancelled().fuse() => {}
                () = self.shared.freed.notified().fuse() => {}
                () = interval.fuse() => {}
                never = renewing => match never {},
            }
        }
    }

    /// Begins accepted rows, and takes over lost calls, as far as there is room.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run_once(&mut self) -> Result<(), Error> {
        self.resume().await
    }

    async fn resume(&self) -> Result<(), Error> {
        for which in [Due::Sure, Due::Unsure] {
            let resumed = self.take_over(which).await;
            self.shared.note_result(&resumed);
            resumed?;
        }
        Ok(())
    }

    async fn take_over(&self, which: Due) -> Result<(), Error> {
        let shared = &*self.shared;
        let room = shared.permits(which).available_permits();
        if room == 0 {
            return Ok(());
        }
        // Only rows to begin count: unsure rows wait for separate room. The flag is cleared before the rows are read,
        // and commands accepted from then on set it again.
        let set_backlog = |backlog| {
            if which == Due::Sure {
                shared.set_backlog(backlog);
            }
        };
        set_backlog(false);
        let due = async {
            let mut tx = shared.rows.begin().await?;
            let locked = shared.rows.due(&mut tx, which, room).await?;
            Ok::<_, Error>((tx, locked))
        };
        let (tx, locked) = due.await.inspect_err(|_| set_backlog(true))?;
        if locked.rows.len() >= room {
            set_backlog(true);
        }
        if locked.rows.is_empty() {
            return Ok(());
        }
        let mut unit = UnitOfWork::new(locked, &[], &shared.settings);
        let (now, lease) = (unit.now, shared.lease(unit.now));
        let keeps = shared.executor.port().keeps_keys_for;
        // The longest due first, and always in the same order.
        let mut keys: Vec<_> = unit.rows.values().map(|r| (r.lease.map(|l| l.until), r.key)).collect();
        keys.sort_unstable();
        let mut begun = Vec::with_capacity(keys.len());
        for (_, key) in keys {
            let Some(permit) = shared.permit(which) else { break };
            let Some(row) = unit.change_row(key) else { continue };
            // The row is locked, so it is still as read: accepted, or a call without a live owner.
            match row.status {
                Status::Accepted => row.status = Status::Started,
                _ => row.unsure = row.started_at.is_some(),
            }
            let begin = call(row, lease, now, keeps);
            begun.extend(begin.map(|begin| Call { permit: Some(permit), ..begin }));
        }
        unit.commit(&shared.rows, tx).await?;
        shared.begin(begun);
        Ok(())
    }

    /// Renews the leases of the calls in progress, well before they lapse.
    async fn renew_for_ever(&self) -> std::convert::Infallible {
        let shared = &*self.shared;
        loop {
            shared.timer.sleep(shared.settings.lease / 3).await;
            if let Err(error) = self.renew().await {
                // Another instance may take the calls over; the rows allow that.
                tracing::warn!(worker = shared.settings.name, %error, "leases could not be renewed");
            }
        }
    }

    /// Renews the leases of the calls in progress.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn renew(&self) -> Result<(), Error> {
        let keys: Vec<_> = self.shared.in_flight().iter().copied().collect();
        if !keys.is_empty() {
            self.shared.rows.renew(self.shared.owner, &keys, self.shared.settings.lease).await?;
        }
        Ok(())
    }
}
