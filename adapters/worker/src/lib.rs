//! amends-worker
