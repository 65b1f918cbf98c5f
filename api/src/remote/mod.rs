//! Commands that ask a running api: what an operator does in a terminal is what they do over HTTP.

mod client;
mod saga;
mod table;

pub use client::{Failure, TOKEN_VARIABLE, check_scheme, token};

use crate::cli::saga::Saga;

/// Carries out `amends saga`.
///
/// # Errors
/// [`Failure`]: what it was, in one line, and the exit status.
pub fn saga(options: &Saga) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(1, error.to_string()))?;
    runtime.block_on(saga::run(options))
}
