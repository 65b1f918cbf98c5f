//! A whole deployment of Amends on this machine that can be measured and disturbed: a real Postgres, a real Apache
//! Kafka, and every role as a separate process.

#![warn(missing_docs)]

pub mod books;
pub mod campaign;
pub mod crash_points;
pub mod deployment;
pub mod limits;
pub mod network;
pub mod proxy;
