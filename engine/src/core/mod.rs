//! The pure core: it makes every decision about a saga. It has no I/O, no clock and no randomness; replaying a saga's
//! timeline through it gives the stored row.

mod command_state;
mod definition;
mod effect;
mod event;
mod message;
mod replay;
mod retry;
mod saga;
pub mod transition;
mod version;

pub use command_state::{ArrivedSignal, CommandState, Repeats, Status, Undo};
pub use definition::{
    Call, Catalog, Definition, Fault, Input, Labels, Needs, SagaTimeout, SignalStep, SignalVerdict, Step,
    StepKind, UNKNOWN_PATIENCE,
};
pub use effect::{Change, CommandToSend, Decision, Did, Entry, Illegal, Nothing};
pub use event::{Actor, Echo, Event, Occurrence, ReplyEvent, Resend, Resolution, Retry, Seen, Signal};
pub use message::{command, outstanding, repetitions};
pub use replay::{Mismatch, replay};
pub use retry::{RetryPolicy, jittered};
pub use saga::{Direction, NewSaga, Saga, SagaOutcome, SagaProgress, SagaState};
pub(crate) use transition::RESEND;
pub use transition::{start, start_by, transition};
pub use version::{Known, Requires, state_version};

/// Version of the core's rules. A saga's row names the version that wrote it.
pub const CORE_VERSION: u16 = if cfg!(feature = "next") { 2 } else { 1 };
/// The newest format of [`SagaProgress`] that this program reads and writes.
pub const STATE_VERSION: u16 = if cfg!(feature = "next") { 2 } else { 1 };
