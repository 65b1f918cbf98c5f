//! amends-postgres
