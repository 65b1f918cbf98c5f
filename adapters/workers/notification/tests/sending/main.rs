//! Sending: over a real Postgres, a real mail server, and real HTTP servers in the place of the api and of an SMS provider.

mod email;
mod published;
mod sms;
mod world;
