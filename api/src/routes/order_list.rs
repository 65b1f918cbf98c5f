//! `GET /api/orders`.

use std::sync::Arc;

use amends_http::query::{self, Parameter};
use amends_orders::{OrderFilter, Sort};
use amends_protocol::TokenKey;
use amends_workflows::order_fulfilment::STATUSES;
use axum::{
    extract::{OriginalUri, State},
    http::{Method, Uri},
    response::Response,
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use utoipa::PartialSchema;
use uuid::Uuid;

use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes, forbidden_at},
    },
    http::{
        openapi::{
            Answer, Operation,
            schema::{self, Instant, OrderStatus, Text},
        },
        page::{CURSOR, LARGEST_PAGE, LIMIT, PAGE_USUAL, PageRequest},
    },
    orders::{
        request,
        view::{Audience, Order},
    },
    problem::{Fault, Problem},
    state::Api,
};

const PATH: &str = "/api/orders";
/// The first order of a page.
const FIRST: &str = "$response.body#/items/0/id";
/// Times that ids know: those of every order. One outside is taken as the nearest.
const YEARS: std::ops::Range<i64> = 0..253_402_300_800;

const CUSTOMER: &str = "customerId";
const STATUS: &str = "status";
const AFTER: &str = "createdAfter";
const BEFORE: &str = "createdBefore";
const SORT: &str = "sort";
const PARAMETERS: [Parameter; 7] = [
    Parameter::Once(CUSTOMER),
    Parameter::Any(STATUS),
    Parameter::Once(AFTER),
    Parameter::Once(BEFORE),
    Parameter::Once(SORT),
    Parameter::Once(LIMIT),
    Parameter::Once(CURSOR),
];

pub fn routes() -> Routes<Arc<Api>> {
    let operation = Operation::new("listOrders", "List orders, page by page")
        .about(
            "A customer sees their own orders. No order is skipped or repeated while others arrive. A page may hold fewer \
             than `limit` orders, even none, while `next` is set.",
        )
        .query(CUSTOMER, "Only orders of this customer.", Text::schema(), "c-1001")
        .query(STATUS, "Only orders with one of these statuses.", schema::several(OrderStatus::schema()), json!(["PENDING"]))
        .query(AFTER, "Only orders from this time on.", Instant::schema(), "2026-01-01T00:00:00Z")
        .query(BEFORE, "Only orders from before this time.", Instant::schema(), "2036-01-01T00:00:00Z")
        .query(SORT, "The newest first, or the oldest.", schema::one_of(&["createdAt", "-createdAt"]), "-createdAt")
        .query(LIMIT, "Largest number of orders.", schema::limit(PAGE_USUAL, LARGEST_PAGE), 50)
        .query(CURSOR, "`next` of the page before, with the same other parameters.", schema::string(), Value::Null)
        .answer(Answer::page::<Order>().link("readOrder", "id", FIRST));
    Routes::default().on(Method::GET, PATH, Access::Needs(Right::ReadOrders), list, operation)
}

async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let key = &api.engine.key;
    let (page, mut filter) = read(&caller, key, &uri)?;
    if !caller.may(Right::ReadAnyOrder) {
        let stated = filter.customer_id.replace(caller.subject().to_owned());
        if stated.is_some_and(|stated| stated != caller.subject()) {
            let why = "must be the token's subject, or left out";
            return Err(forbidden_at(vec![Fault::parameter(CUSTOMER, why)]));
        }
    }
    let found = api.order_lists.list(&filter).await?;
    let items: Vec<Order> = found.items.iter().map(|view| Order::now(view, Audience::of(&caller))).collect();
    Ok(page.answer(key, items, found.next.as_ref()))
}

/// Reads a request for a page: what leads to the next one, and which orders to list.
fn read(caller: &Caller, key: &TokenKey, uri: &Uri) -> Result<(PageRequest<Uuid>, OrderFilter), Problem> {
    let page = PageRequest::read(caller, key, PATH, query::read(uri, &PARAMETERS)?)?;
    let filter = OrderFilter { after: page.after, limit: page.limit, ..filter(page.of_list())? };
    Ok((page, filter))
}

fn filter(query: &[(&'static str, String)]) -> Result<OrderFilter, Problem> {
    let mut filter = OrderFilter::default();
    let mut faults = Vec::new();
    for (name, value) in query {
        let fault = match *name {
            CUSTOMER => match request::text(value, &()) {
                Ok(()) => {
                    filter.customer_id = Some(value.clone());
                    None
                }
                Err(why) => Some(why.to_string()),
            },
            STATUS if STATUSES.contains(&value.as_str()) => {
                filter.statuses.push(value.clone());
                None
            }
            STATUS => Some(format!("must be one of {}", STATUSES.join(", "))),
            AFTER => time(value, &mut filter.created_after),
            BEFORE => time(value, &mut filter.created_before),
            SORT => match value.as_str() {
                "createdAt" => {
                    filter.sort = Sort::OldestFirst;
                    None
                }
                "-createdAt" => None,
                _ => Some("must be createdAt or -createdAt".to_owned()),
            },
            _ => None,
        };
        faults.extend(fault.map(|why| Fault::parameter(name, why)));
    }
    if faults.is_empty() { Ok(filter) } else { Err(Problem::Invalid(faults)) }
}

/// Reads a time; returns what is wrong with it.
fn time(value: &str, into: &mut Option<DateTime<Utc>>) -> Option<String> {
    match DateTime::parse_from_rfc3339(value) {
        Ok(at) => {
            let nearest = at.timestamp().clamp(YEARS.start, YEARS.end - 1);
            *into = match nearest == at.timestamp() {
                true => Some(at.to_utc()),
                false => DateTime::from_timestamp_secs(nearest),
            };
            None
        }
        Err(_) => Some("must be a time by RFC 3339, such as 2026-01-01T00:00:00Z".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<OrderFilter, Problem> {
        let uri = format!("{PATH}?{query}").parse().unwrap();
        super::read(&Caller::dev(), &TokenKey::new([7; 32]), &uri).map(|(_, filter)| filter)
    }

    #[test]
    fn a_list_without_parameters_is_the_newest_fifty() {
        let usual = OrderFilter { limit: 50, ..OrderFilter::default() };
        assert_eq!(read("").unwrap(), usual);
        assert_eq!(read("sort=-createdAt&limit=50").unwrap(), usual);
    }

    #[test]
    fn every_parameter_narrows_the_list_and_several_statuses_are_an_or() {
        let filter = read(
            "customerId=c-1&status=PAID&status=FAILED&createdAfter=2026-01-01T00:00:00%2B01:00\
             &createdBefore=2026-02-01T00:00:00Z&sort=createdAt&limit=200",
        )
        .unwrap();
        let at = |text: &str| Some(text.parse().unwrap());
        assert_eq!(
            filter,
            OrderFilter {
                customer_id: Some("c-1".into()),
                statuses: vec!["PAID".into(), "FAILED".into()],
                created_after: at("2025-12-31T23:00:00Z"),
                created_before: at("2026-02-01T00:00:00Z"),
                sort: Sort::OldestFirst,
                after: None,
                limit: 200,
            }
        );
    }

    #[test]
    fn a_time_before_or_after_all_orders_is_taken_as_the_first_or_the_last() {
        let filter =
            read("createdAfter=0001-01-01T00:00:00Z&createdBefore=9999-12-31T23:59:59-23:59").unwrap();
        let at = |text: &str| Some(text.parse().unwrap());
        assert_eq!(filter.created_after, at("1970-01-01T00:00:00Z"));
        assert_eq!(filter.created_before, at("9999-12-31T23:59:59Z"));
    }

    #[test]
    fn what_a_parameter_cannot_be_is_refused_by_name() {
        for (query, name) in [
            ("customerId=", CUSTOMER),
            ("status=paid", STATUS),
            ("status=PAID&status=", STATUS),
            ("createdAfter=2026-02-30T00:00:00Z", AFTER),
            ("createdBefore=yesterday", BEFORE),
            ("sort=total", SORT),
            ("limit=0", LIMIT),
            ("limit=201", LIMIT),
            ("limit=1&limit=2", LIMIT),
            ("page=2", "query"),
        ] {
            let refused = format!("{:?}", read(query).unwrap_err());
            assert!(refused.contains(name), "{query}: {refused}");
        }
    }
}
