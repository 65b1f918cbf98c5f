//! What a registry of services needs to start a worker without knowing what it does.

use sqlx::PgPool;

use crate::Settings;

/// An executor that is made from nothing but the worker's own database.
pub trait Participant: Sized {
    /// The executor over these connections to the worker's database.
    fn over(pool: PgPool) -> Self;

    /// The settings to start from: the participant's name, and what its calls need.
    fn settings() -> Settings;
}
