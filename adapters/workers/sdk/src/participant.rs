//! What a registry of services needs to start a worker without knowing its business.

use amends_pool::Pool;
use std::{future::Future, time::Duration};

use crate::{Settings, store};

/// An executor that needs only the worker's own database.
pub trait Participant: Sized {
    /// Creates the executor over this pool.
    fn over(pool: Pool) -> Self;

    /// Returns the initial settings: the participant's name, and what its calls need.
    fn settings() -> Settings;

    /// Deletes its other stored data of sagas that were born longer than `retention` ago, and returns the number of
    /// rows deleted. It reads only old rows.
    fn expire_books(
        pool: &Pool,
        retention: Duration,
    ) -> impl Future<Output = Result<u64, store::Error>> + Send;
}
