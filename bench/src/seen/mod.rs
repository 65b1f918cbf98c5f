//! How the load learns that a saga has come to its end, without asking for each.
//!
//! * Over HTTP ([`commands`]): from Kafka. The `take` command of an order is sent once `FULFILLED` is committed, so its
//!   arrival is the first proof that anybody else can have. The end of an undone saga is seen by the reply to the last
//!   compensation; the engine's commit follows that by milliseconds. No database is asked and nothing is added to
//!   any role.
//! * In batches ([`reported`]): the benchmark's own engine process (the program's engine, without the publisher) reports
//!   what it has committed, over a socket, once a commit.

pub mod commands;
pub mod reported;
pub mod stored;
