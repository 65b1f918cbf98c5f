//! amends-payment
