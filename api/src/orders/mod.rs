//! Orders: the requests about them, their rendering, and the group commit of new ones.

pub mod changes;
pub mod cursor;
pub mod door;
pub mod explanation;
pub mod personal;
pub mod pricing;
pub mod request;
pub mod timeline;
pub mod view;
pub mod watch;
