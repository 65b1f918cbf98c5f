//! How batches come together, whatever they are made of: how long to wait for more, and where sagas that are born together
//! live.
#![warn(missing_docs)]

mod birth_slots;
mod gather;

pub use birth_slots::BirthSlots;
pub use gather::Gather;
