//! What a registry of services needs to start a worker without knowing what it does.

use amends_pool::Pool;
use std::{future::Future, time::Duration};

use crate::{Settings, store};

/// An executor that is made from nothing but the worker's own database.
pub trait Participant: Sized {
    /// The executor over these connections to the worker's database.
    fn over(pool: Pool) -> Self;

    /// The settings to start from: the participant's name, and what its calls need.
    fn settings() -> Settings;

    /// Removes what it has kept, besides its rows, of sagas that were born longer than `retention` ago. Returns how many
    /// rows went. Looks at what is old only.
    fn expire_books(
        pool: &Pool,
        retention: Duration,
    ) -> impl Future<Output = Result<u64, store::Error>> + Send;
}
