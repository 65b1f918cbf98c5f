//! The files with which Amends is deployed, against the program: commands, settings, metrics. None of them is started here.

mod compose;
mod documents;
mod kubernetes;
mod metrics;
mod settings;
mod support;
