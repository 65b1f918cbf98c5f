//! amends-shipment
