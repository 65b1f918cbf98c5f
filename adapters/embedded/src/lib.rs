//! A Postgres and a Kafka broker that the program starts itself, for `amends dev` and for tests.
//!
//! Both listen on 127.0.0.1 only and end with the process that started them, however that process ends. [`Postgres`] is
//! the installed server on a private cluster, which is kept between runs; [`Broker`] is librdkafka's mock cluster: the
//! real protocol over TCP, in memory only.

#![warn(missing_docs)]

mod account;
pub mod broker;
pub mod broker_process;
mod cluster;
mod handover;
mod options;
mod peer;
mod port;
mod postgres;
mod proxy;
mod supervisor;
mod sys;

pub use broker::{Broker, BrokerOptions};
pub use broker_process::{BrokerPlan, BrokerProcess};
pub use options::{Error, PostgresOptions};
pub use port::free_port;
pub use postgres::Postgres;
