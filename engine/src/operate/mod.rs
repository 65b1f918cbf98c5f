//! What an operator may know about a saga, computed from its row. Pure, like the core.

mod explanation;

pub use explanation::{Explanation, explain};
