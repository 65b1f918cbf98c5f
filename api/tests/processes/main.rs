//! Whole processes: the roles as shipped, over a real Postgres and a real Kafka protocol; with `CI` or
//! `AMENDS_TEST_REAL_KAFKA` also over a real Apache Kafka.

mod bad_input;
mod books;
mod cached;
mod callers;
mod cancelling;
mod changes;
mod dev;
mod distributed;
mod doctor;
mod edge;
mod environment;
mod examples;
mod following;
mod hostile;
mod limits;
mod listing;
mod migrating;
mod notifying;
mod odd;
mod passed_over;
mod privacy;
mod products;
mod reads;
mod recovery;
mod restoring;
mod returning;
mod samples;
mod secured;
mod services;
mod silence;
mod support;
mod traffic;
mod tutorial;
mod versions;
mod webhooks;
