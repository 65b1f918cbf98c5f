//! How batches are formed, whatever they contain: how long to wait for more items, and which slots sagas born together
//! get.
#![warn(missing_docs)]

mod birth_slots;
mod gather;

pub use birth_slots::BirthSlots;
pub use gather::Gather;
