//! `GET /admin/sagas`: a list of sagas, page by page.

use std::{sync::Arc, time::Duration};

use amends_engine::core::SagaState;
use amends_http::query::{self, Parameter};
use amends_postgres::admin::{Filter, OfWorkflow};
use axum::{
    Json,
    extract::{OriginalUri, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use utoipa::PartialSchema;
use uuid::Uuid;

use super::view::SagaList;
use crate::{
    auth::{
        Right,
        access::{Access, Routes},
    },
    http::{
        openapi::{
            Answer, Operation,
            schema::{self, Instant, Text},
        },
        page,
    },
    lists::Listed,
    orders::request,
    problem::{Fault, Problem, problem_types},
    state::Api,
};

const PAGE_USUAL: u32 = 50;
const LARGEST_PAGE: u32 = 500;
/// The states of sagas.
const STATES: [SagaState; 5] =
    [SagaState::Running, SagaState::Compensating, SagaState::Parked, SagaState::Completed, SagaState::Undone];
/// The longest age that can be asked for.
const AGE_LONGEST: Duration = Duration::from_secs(3650 * 86_400);

const PATH: &str = "/admin/sagas";
const AFTER: &str = "after";
const LIMIT: &str = "limit";
const COUNT: &str = "count";
const ORDER: &str = "order";
const BUSINESS_KEY: &str = "businessKey";
const CUSTOMER: &str = "customer";
const STATE: &str = "state";
const STEP: &str = "step";
const LABEL: &str = "label";
const WORKFLOW: &str = "workflow";
const PARTICIPANT: &str = "participant";
const STUCK: &str = "stuck";
const HOLDS: &str = "holds";
const OLDER_THAN: &str = "olderThan";
const CREATED_AFTER: &str = "createdAfter";
const CREATED_BEFORE: &str = "createdBefore";
const PARAMETERS: [Parameter; 16] = [
    Parameter::Any(ORDER),
    Parameter::Any(BUSINESS_KEY),
    Parameter::Any(CUSTOMER),
    Parameter::Any(STATE),
    Parameter::Any(STEP),
    Parameter::Any(LABEL),
    Parameter::Any(WORKFLOW),
    Parameter::Any(PARTICIPANT),
    Parameter::Once(STUCK),
    Parameter::Once(HOLDS),
    Parameter::Once(OLDER_THAN),
    Parameter::Once(CREATED_AFTER),
    Parameter::Once(CREATED_BEFORE),
    Parameter::Once(COUNT),
    Parameter::Once(AFTER),
    Parameter::Once(LIMIT),
];

pub(super) fn routes() -> Routes<Arc<Api>> {
    let states = STATES.map(SagaState::as_str);
    let (yes_or_no, yes) = (schema::one_of(&["true", "false"]), || schema::one_of(&["true"]));
    let texts = || schema::several(Text::schema());
    let operation = Operation::new("listSagas", "List sagas, page by page")
        .about("Several values of one parameter are an OR, several parameters an AND.")
        .query(ORDER, "Only sagas of one of these orders.", schema::several(schema::uuid()), Value::Null)
        .query(
            BUSINESS_KEY,
            "Only sagas with one of these business keys, which are ids of orders.",
            texts(),
            json!(["01a20191-dc04-70a7-b9de-b92999bc7f56"]),
        )
        .query(CUSTOMER, "Only sagas of orders of one of these customers.", texts(), json!(["c-1001"]))
        .query(
            STATE,
            "Only sagas in one of these states.",
            schema::several(schema::one_of(&states)),
            json!(["parked"]),
        )
        .query(STEP, "Only sagas at one of these steps.", texts(), json!(["pay"]))
        .query(LABEL, "Only sagas with one of these labels.", texts(), json!(["PAID"]))
        .query(
            WORKFLOW,
            "Only sagas of one of these workflows: a name, or name and version.",
            schema::several(schema::string().pattern(Some("^[a-z_]{1,64}(@[1-9][0-9]{0,8})?$"))),
            json!(["order_fulfilment@1"]),
        )
        .query(
            PARTICIPANT,
            "Only sagas at a step of one of these participants.",
            schema::several(schema::string().pattern(Some("^[a-z_]{1,64}$"))),
            json!(["payment"]),
        )
        .query(
            STUCK,
            "Only sagas that are at their step for longer than expected, or only others.",
            yes_or_no,
            "false",
        )
        .query(HOLDS, "Only undone sagas that still hold something outside.", yes(), Value::Null)
        .query(OLDER_THAN, "Only sagas that are at their step for longer than this.", age(), "5m")
        .query(CREATED_AFTER, "Only sagas from this time on.", Instant::schema(), "2026-01-01T00:00:00Z")
        .query(CREATED_BEFORE, "Only sagas from before this time.", Instant::schema(), "2036-01-01T00:00:00Z")
        .query(COUNT, "Also count the list: exactly up to 1000, then `1000+`.", yes(), "true")
        .query(AFTER, "`next` of the page before.", schema::uuid(), Value::Null)
        .query(LIMIT, "Largest number of sagas.", schema::limit(PAGE_USUAL, LARGEST_PAGE), 50)
        .answer(Answer::json::<SagaList>(StatusCode::OK, "A page.").next_link().link(
            "readSaga",
            "id",
            "$response.body#/items/0/id",
        ))
        .problems(&[problem_types::BUSY]);
    Routes::default().on(Method::GET, PATH, Access::Needs(Right::ReadSagas), list, operation)
}

fn age() -> utoipa::openapi::ObjectBuilder {
    schema::string().pattern(Some("^(0|[1-9][0-9]{0,2}(s|m|h|d))$"))
}

async fn list(State(api): State<Arc<Api>>, OriginalUri(uri): OriginalUri) -> Result<Response, Problem> {
    let query = query::read(&uri, &PARAMETERS)?;
    let (mut filter, asked) = filter(&api, &query)?;
    filter.among = among(&api, &asked).await?;
    let limit = filter.limit.to_string();
    let shown = move |listed: &Listed| {
        let mut response = Json(SagaList::of(listed)).into_response();
        if let Some(after) = listed.page.next.map(|after| after.to_string()) {
            let of_list = query.iter().filter(|(name, _)| ![AFTER, LIMIT].contains(name));
            let of_list = of_list.map(|(name, value)| (*name, value.as_str()));
            let parameters: Vec<_> =
                of_list.chain([(LIMIT, limit.as_str()), (AFTER, after.as_str())]).collect();
            page::link_next(&mut response, PATH, &parameters);
        }
        response
    };
    api.lists.sagas(&filter, asked.is_counted, shown).await
}

/// What a request asks for that the sagas' own table does not tell.
#[derive(Debug, Default)]
struct Asked {
    /// Orders; `None`: of any order. A key that is no order's id is nobody's.
    orders: Option<Vec<Uuid>>,
    /// Customers; `None`: of any customer.
    customers: Option<Vec<String>>,
    is_counted: bool,
}

/// Returns the sagas of the orders and the customers that are asked for. The order book knows them: so the sagas' table,
/// which is written all the time, needs no index for them.
async fn among(api: &Api, asked: &Asked) -> Result<Option<Vec<Uuid>>, Problem> {
    let of_orders = match &asked.orders {
        None => None,
        Some(orders) => {
            let mut sagas = Vec::new();
            for order in orders {
                sagas.extend(api.order_lists.sagas_of(*order).await?);
            }
            Some(sagas)
        }
    };
    let of_customers = match &asked.customers {
        None => None,
        Some(customers) => Some(api.order_lists.sagas_of_customers(customers).await?),
    };
    Ok(match (of_orders, of_customers) {
        (Some(mut sagas), Some(others)) => {
            sagas.retain(|saga| others.contains(saga));
            Some(sagas)
        }
        (sagas, others) => sagas.or(others),
    })
}

fn filter(api: &Api, query: &[(&'static str, String)]) -> Result<(Filter, Asked), Problem> {
    let (mut filter, mut asked) = (Filter { limit: PAGE_USUAL, ..Filter::default() }, Asked::default());
    let mut faults = Vec::new();
    let is_text = |value: &String| request::text(value, &()).is_ok();
    let mut participants: Option<Vec<&str>> = None;
    for (name, value) in query {
        let why = match *name {
            STATE => match STATES.into_iter().find(|state| state.as_str() == value) {
                Some(state) => {
                    filter.states.push(state);
                    None
                }
                None => Some("must be running, compensating, parked, completed or undone"),
            },
            ORDER => match value.parse() {
                Ok(order) if value.len() == 36 => {
                    asked.orders.get_or_insert_default().push(order);
                    None
                }
                _ => Some("must be the id of an order"),
            },
            BUSINESS_KEY if is_text(value) => {
                asked.orders.get_or_insert_default().extend(value.parse::<Uuid>().ok());
                None
            }
            BUSINESS_KEY => Some("must be a business key"),
            CUSTOMER if is_text(value) => {
                asked.customers.get_or_insert_default().push(value.clone());
                None
            }
            CUSTOMER => Some("must be the id of a customer"),
            STEP if is_text(value) => {
                filter.steps.push(value.clone());
                None
            }
            STEP => Some("must be the name of a step"),
            LABEL if is_text(value) => {
                filter.labels.push(value.clone());
                None
            }
            LABEL => Some("must be a label"),
            WORKFLOW => match workflow(value) {
                Some(workflow) => {
                    filter.workflows.push(workflow);
                    None
                }
                None => Some("must be the name of a workflow, or name@version"),
            },
            PARTICIPANT if is_name(value) => {
                participants.get_or_insert_default().push(value);
                None
            }
            PARTICIPANT => Some("must be the name of a participant"),
            STUCK => match value.parse() {
                Ok(stuck) => {
                    filter.stuck = Some(stuck);
                    None
                }
                Err(_) => Some("must be true or false"),
            },
            HOLDS if value == "true" => {
                filter.undone_holding = true;
                None
            }
            COUNT if value == "true" => {
                asked.is_counted = true;
                None
            }
            HOLDS | COUNT => Some("must be true, or left out"),
            OLDER_THAN => match humantime_serde::re::humantime::parse_duration(value) {
                Ok(age) if age <= AGE_LONGEST => {
                    filter.older_than = Some(age);
                    None
                }
                _ => Some("must be a time such as 5m or 2h"),
            },
            CREATED_AFTER => time(value, &mut filter.born_after),
            CREATED_BEFORE => time(value, &mut filter.born_before),
            AFTER => match value.parse() {
                Ok(id) => {
                    filter.after = Some(id);
                    None
                }
                Err(_) => Some("must be the `next` of the page before"),
            },
            LIMIT => match value.parse() {
                Ok(limit @ 1..=LARGEST_PAGE) => {
                    filter.limit = limit;
                    None
                }
                _ => Some("must be 1-500"),
            },
            _ => None,
        };
        faults.extend(why.map(|why| Fault::parameter(name, why)));
    }
    if !faults.is_empty() {
        return Err(Problem::Invalid(faults));
    }
    if let Some(participants) = participants {
        of_participants(api, &participants, &mut filter);
    }
    Ok((filter, asked))
}

/// Narrows the steps to those of these participants.
fn of_participants(api: &Api, participants: &[&str], filter: &mut Filter) {
    let steps = api.engine.catalog.iter().flat_map(|definition| &definition.steps);
    let mut steps: Vec<String> = steps
        .filter(|step| participants.contains(&step.participant))
        .map(|step| step.name.to_owned())
        .collect();
    steps.sort();
    steps.dedup();
    if !filter.steps.is_empty() {
        steps.retain(|step| filter.steps.contains(step));
    }
    // No step has an empty name: a participant without a step has no sagas.
    filter.steps = if steps.is_empty() { vec![String::new()] } else { steps };
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// Reads the name of a workflow, perhaps with its version.
fn workflow(text: &str) -> Option<OfWorkflow> {
    let (name, version) = match text.split_once('@') {
        None => (text, None),
        Some((name, version)) => (name, Some(version.parse::<u32>().ok().filter(|version| *version > 0)?)),
    };
    is_name(name).then(|| OfWorkflow { name: name.to_owned(), version })
}

/// Reads a time; returns what is wrong with it.
fn time(value: &str, into: &mut Option<DateTime<Utc>>) -> Option<&'static str> {
    match DateTime::parse_from_rfc3339(value) {
        Ok(at) => {
            *into = Some(at.to_utc());
            None
        }
        Err(_) => Some("must be a time by RFC 3339, such as 2026-01-01T00:00:00Z"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workflow_is_named_with_or_without_its_version() {
        let of = |name: &str, version| Some(OfWorkflow { name: name.to_owned(), version });
        assert_eq!(workflow("order_return"), of("order_return", None));
        assert_eq!(workflow("order_return@12"), of("order_return", Some(12)));
        for bad in ["", "@1", "order@", "order@0", "order@-1", "order@x", "Order", "order return", "evil!"] {
            assert_eq!(workflow(bad), None, "{bad}");
        }
    }
}
