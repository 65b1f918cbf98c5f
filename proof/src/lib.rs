//! A whole deployment of Amends on this machine that can be measured and hurt: a real Postgres, a real Apache
//! Kafka, and every role as a process of its own.

#![warn(missing_docs)]

pub mod books;
pub mod campaign;
pub mod crash_points;
pub mod deployment;
pub mod limits;
pub mod proxy;
