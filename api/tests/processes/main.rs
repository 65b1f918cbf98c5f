//! Whole processes: the roles as they are shipped, over a real Postgres and a real Kafka protocol.

mod books;
mod edge;
mod recovery;
mod samples;
mod support;
mod traffic;
