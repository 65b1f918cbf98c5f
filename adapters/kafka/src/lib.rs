//! amends-kafka
