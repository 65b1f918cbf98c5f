//! New orders: the request, its conversion, and the group commit.

pub mod cursor;
pub mod door;
pub mod explanation;
pub mod personal;
pub mod pricing;
pub mod request;
pub mod view;
pub mod watch;
