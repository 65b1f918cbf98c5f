//! amends-embedded
