//! amends-testkit
