//! What the api's routes share.
//!
//! | file | contains |
//! | --- | --- |
//! | [`etag`] | entity tags, `If-None-Match` and `If-Match` (RFC 9110, 13.1) |
//! | [`idempotency`] | `Idempotency-Key` of every POST |

pub mod etag;
pub mod idempotency;
