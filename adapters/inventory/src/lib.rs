//! amends-inventory
