//! Orders at the door: what a request may say, what it becomes, and the group commit that takes it in.

pub mod door;
pub mod request;
pub mod view;
