//! The services behind the api: it is the one entry, and forwards what belongs to them.
//!
//! | file | contains |
//! | --- | --- |
//! | [`breaker`] | a circuit breaker: whether a service is asked at all |
//! | [`upstream`] | a service: time limit, bounded retries of reads, and its breaker |
//! | [`service_token`] | the token by which a service recognises the api |

pub mod breaker;
pub mod service_token;
pub mod upstream;

pub use service_token::ServiceToken;
pub use upstream::Upstream;
