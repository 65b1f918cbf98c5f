//! All workflows of this program.

use std::time::Duration;

use amends_engine::core::Catalog;

use crate::order_fulfilment;

/// What can be set about the workflows.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// An order still `PENDING` after this long cancels itself.
    pub pending_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { pending_timeout: Duration::from_secs(15 * 60) }
    }
}

/// Every workflow, in every version that a saga may still have.
pub fn catalog(settings: Settings) -> Catalog {
    Catalog::new(vec![order_fulfilment::definition(settings.pending_timeout)])
        .expect("a test checks that the definitions are sound")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_definitions_are_sound() {
        assert_eq!(super::catalog(super::Settings::default()).iter().count(), 1);
    }
}
