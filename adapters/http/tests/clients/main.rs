//! Clients that are slow, silent or hostile, against a listener of their own, over TCP.

mod limits;
mod rules;
mod support;
