//! Any body of `POST /api/orders` is an order within its bounds, or a problem; any text in a path is an id, or a
//! problem.

#![no_main]

use std::collections::HashMap;

use amends_api::{auth::Caller, orders::request::OrderRequest};
use amends_http::{ProblemDetails, body};
use axum::{body::Bytes, http::{HeaderMap, HeaderValue}};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let order: Result<OrderRequest, ProblemDetails> = body::read(&headers, &Bytes::copy_from_slice(bytes));
    let priced = order.map(|request| request.placed_by(&Caller::dev()).and_then(|order| order.priced(&HashMap::new())));
    if let Ok(Ok(order)) = priced {
        assert!(order.total() >= 0, "it was checked");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = body::id("orderId", text);
    }
});
