//! What the api's routes share.
//!
//! | file | contains |
//! | --- | --- |
//! | [`concurrency`] | a limit of requests that are carried out at once |
//! | [`etag`] | entity tags, `If-None-Match` and `If-Match` (RFC 9110, 13.1) |
//! | [`idempotency`] | `Idempotency-Key` of every POST |
//! | [`latency`] | how long requests take, by route |
//! | [`openapi`] | the OpenAPI document, and how a route is described |
//! | [`page`] | pages of lists, their cursors and links |
//! | [`rate_limit`] | limits of requests by subject and by address |
//! | [`traces`] | the span of a request |

pub mod concurrency;
pub mod etag;
pub mod idempotency;
pub mod latency;
pub mod openapi;
pub mod page;
pub mod rate_limit;
pub mod traces;
