//! New orders: the request, its conversion, and the group commit.

pub mod cursor;
pub mod door;
pub mod request;
pub mod view;
