//! The files with which Amends is deployed, against the program: commands, settings, metrics, what it scales by. None of the
//! roles is started here.

mod compose;
mod documents;
mod kubernetes;
mod metrics;
mod scaling;
mod settings;
mod support;
