//! Who calls, and what they may do: bearer tokens (RFC 6750) that are JSON Web Tokens (RFC 7519) signed with RS256, by
//! the best practices of RFC 8725.
//!
//! ```text
//! Authorization: Bearer …  ->  token     the compact form, header and signature
//!                              key_cache the keys: a JWKS URL, a PEM file, or dev's own key
//!                              claims    iss, aud, exp, nbf, sub, roles
//!                          ->  caller    the subject and its roles; the table of rights is in `roles`
//! ```
//!
//! [`bearer::authenticate`] applies it to every request, [`access`] the rights of each route. Nothing of a token is ever
//! logged or answered.

pub mod access;
pub mod bearer;
mod caller;
mod claims;
mod key_cache;
mod keys;
mod own_key;
pub(crate) mod refusal;
pub mod roles;
mod token;
mod verified;

#[cfg(test)]
mod tests;

pub use bearer::Authenticator;
pub use caller::{Caller, DEV_SUBJECT};
pub use claims::Expected;
pub use key_cache::KeyCache;
pub use own_key::OwnKey;
pub use roles::{Right, Role, Roles};
