//! amends-notification
