//! Attacks on tokens, each of which must fail; and how the keys are kept.

mod attacks;
mod claims;
mod issuer;
mod sources;
mod wycheproof;
