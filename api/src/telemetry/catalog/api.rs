//! Metrics of the HTTP interface: of the api, and of services that check tokens.

use super::{
    LabelValues::{Each, Routes},
    Metric,
    RecordedBy::{self, Every, Role},
    counter, gauge, histogram,
    values::{owned, status_classes, token_outcomes, upstreams},
};

const API: RecordedBy = Role("api");

pub(super) const METRICS: &[Metric] = &[
    histogram("amends_api_batch_size", API, &[], "New orders in a batch."),
    counter(
        "amends_api_left_to_the_engine_total",
        API,
        &[],
        "Orders whose first command the api left to the engine, because too many wait for the broker.",
    ),
    histogram(
        "amends_api_request_seconds",
        API,
        &[("route", Routes), ("status", Each(status_classes))],
        "Time from a request's head to its answer's head, by route; also of requests that wait for something.",
    ),
    counter(
        "amends_api_lists_refused_total",
        API,
        &[],
        "Lists that were refused because too many are being read.",
    ),
    counter(
        "amends_api_limited_total",
        API,
        &[("by", Each(|| owned(&["subject", "address", "concurrency"])))],
        "Requests beyond a limit.",
    ),
    counter(
        "amends_api_stock_reads_total",
        API,
        &[("from", Each(|| owned(&["cache", "worker"])))],
        "Reads of one product's stock.",
    ),
    counter(
        "amends_api_retries_total",
        API,
        &[("service", Each(upstreams))],
        "Requests to a service that were repeated.",
    ),
    gauge(
        "amends_circuit_breaker_open",
        API,
        &[("service", Each(upstreams))],
        "1 while the api does not ask this service, or only tries.",
    ),
    counter(
        "amends_auth_requests_total",
        API,
        &[("outcome", Each(token_outcomes))],
        "Requests, by what their token was found to be.",
    ),
    counter(
        "amends_auth_key_readings_total",
        API,
        &[("result", Each(|| owned(&["read", "failed"])))],
        "Readings of the keys of tokens.",
    ),
    gauge("amends_auth_keys", API, &[], "Keys by which tokens are checked, once they have been read."),
    counter(
        "amends_service_requests_refused_total",
        Every,
        &[],
        "Requests of services that were refused for a missing or wrong service token.",
    ),
];
