//! `/admin/sagas`: reads for operators. Their actions are in [`actions`], what they read in [`view`].

mod actions;
mod view;

use std::{sync::Arc, time::Duration};

use amends_engine::core::SagaState;
use amends_http::{
    body,
    query::{self, Parameter},
};
use amends_postgres::admin::{Admin, Detail, Filter, Page};
use axum::{
    Json,
    extract::{OriginalUri, Path, State},
    http::{HeaderMap, Method, StatusCode},
    middleware::from_fn,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use utoipa::PartialSchema;
use uuid::Uuid;

use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    http::{
        etag::Representation,
        openapi::{
            Answer, Operation,
            schema::{self, Text},
        },
        page,
    },
    orders::request,
    problem::{Fault, Problem, problem_types},
    state::Api,
};
use view::{SagaList, SagaView};

const PAGE_USUAL: u32 = 50;
const LARGEST_PAGE: u32 = 500;
/// The states of sagas.
const STATES: [SagaState; 5] =
    [SagaState::Running, SagaState::Compensating, SagaState::Parked, SagaState::Completed, SagaState::Undone];

const PATH: &str = "/admin/sagas";
const AFTER: &str = "after";
const LIMIT: &str = "limit";
const BUSINESS_KEY: &str = "businessKey";
const PARAMETERS: [Parameter; 8] = [
    Parameter::Once(BUSINESS_KEY),
    Parameter::Once("state"),
    Parameter::Once("step"),
    Parameter::Once("stuck"),
    Parameter::Once("holds"),
    Parameter::Once("olderThan"),
    Parameter::Once(AFTER),
    Parameter::Once(LIMIT),
];

pub fn routes() -> Routes<Arc<Api>> {
    let (reads, acts) = (Access::Needs(Right::ReadSagas), Access::Needs(Right::ActOnSagas));
    let command = "0b0d4a39-5a0f-5d0a-9f54-5b7f0e6f3a11";
    let seen = json!({ "reason": "the bank answers again", "revision": 7, "commandId": command });
    let resolved = json!({
        "outcome": "done",
        "reason": "the bank confirms it by phone",
        "reference": "bank ticket 4711",
        "revision": 7,
        "commandId": command,
    });
    let signal =
        json!({ "name": "decision", "payload": { "approved": true }, "reason": "the goods are back" });
    Routes::default()
        .on(
            Method::GET,
            "/admin/sagas/{id}",
            reads,
            read,
            Operation::new("readSaga", "Read a saga: what it waits for, what it holds, what can be done")
                .header(
                    "If-None-Match",
                    "Entity tags of states that the caller has.",
                    schema::string(),
                    Value::Null,
                )
                .answer(leading_on(Answer::json::<SagaView>(StatusCode::OK, "The saga.").etag()))
                .answer(Answer::empty(StatusCode::NOT_MODIFIED, "The caller has this state.").etag()),
        )
        .on(
            Method::POST,
            "/admin/sagas/{id}/retry",
            acts,
            actions::retry,
            act("retrySaga", "Retry the step that a parked saga waits at")
                .body::<actions::RetryRequest>(seen)
                .problems(&[problem_types::STALE]),
        )
        .on(
            Method::POST,
            "/admin/sagas/{id}/resend",
            acts,
            actions::resend,
            act("resendSaga", "Send the outstanding commands of a saga again")
                .body::<actions::ResendRequest>(json!({ "reason": "the worker was restored from a backup" }))
                .problems(&[problem_types::STALE]),
        )
        .on(
            Method::POST,
            "/admin/sagas/{id}/cancel",
            acts,
            actions::cancel,
            act("cancelSaga", "Cancel a saga: what it has done is undone")
                .body::<request::CancelRequest>(json!({ "reason": "the customer has called" })),
        )
        .on(
            Method::POST,
            "/admin/sagas/{id}/resolve",
            acts,
            actions::resolve,
            act("resolveSaga", "State how a command that a parked saga waits for has ended, with evidence")
                .body::<actions::ResolveRequest>(resolved)
                .problems(&[problem_types::STALE]),
        )
        .on(
            Method::POST,
            "/admin/sagas/{id}/signal",
            acts,
            actions::signal,
            act("signalSaga", "Deliver an event that a step of a saga waits for")
                .body::<actions::SignalRequest>(signal)
                .problems(&[problem_types::STALE]),
        )
        .each(|routes| routes.route_layer(from_fn(query::none)))
        .on(Method::GET, PATH, reads, list, describe_list())
}

/// Describes an operator's action on a saga.
fn act(id: &'static str, summary: &'static str) -> Operation {
    Operation::new(id, summary)
        .about("`actions` of the saga lists what is possible now. The action and its reason are kept in the timeline.")
        .if_match()
        .answer(leading_on(Answer::json::<SagaView>(StatusCode::OK, "The saga as it is now.")))
        .problems(&[problem_types::NOT_LEGAL_NOW])
}

/// Adds to the answer with a saga what can be done with it.
fn leading_on(answer: Answer) -> Answer {
    let of_a_saga = ["readSaga", "retrySaga", "resendSaga", "cancelSaga", "resolveSaga", "signalSaga"];
    of_a_saga.into_iter().fold(answer, |answer, operation| answer.link(operation, "id", "$response.body#/id"))
}

fn describe_list() -> Operation {
    let states = STATES.map(SagaState::as_str);
    let (yes_or_no, yes) = (schema::one_of(&["true", "false"]), schema::one_of(&["true"]));
    Operation::new("listSagas", "List sagas, page by page")
        .query(
            BUSINESS_KEY,
            "Only sagas of this order.",
            Text::schema(),
            "01a20191-dc04-70a7-b9de-b92999bc7f56",
        )
        .query("state", "Only sagas in this state.", schema::one_of(&states), "parked")
        .query("step", "Only sagas at this step.", Text::schema(), "pay")
        .query(
            "stuck",
            "Only sagas that are at their step for longer than expected, or only others.",
            yes_or_no,
            "false",
        )
        .query("holds", "Only undone sagas that still hold something outside.", yes, Value::Null)
        .query("olderThan", "Only sagas that are at their step for longer than this.", age(), "5m")
        .query(AFTER, "`next` of the page before.", schema::uuid(), Value::Null)
        .query(LIMIT, "Largest number of sagas.", schema::limit(PAGE_USUAL, LARGEST_PAGE), 50)
        .answer(Answer::json::<SagaList>(StatusCode::OK, "A page.").next_link().link(
            "readSaga",
            "id",
            "$response.body#/items/0/id",
        ))
        .problems(&[problem_types::BUSY])
}

fn age() -> utoipa::openapi::ObjectBuilder {
    schema::string().pattern(Some("^(0|[1-9][0-9]{0,2}(s|m|h|d))$"))
}

async fn list(State(api): State<Arc<Api>>, OriginalUri(uri): OriginalUri) -> Result<Response, Problem> {
    let query = query::read(&uri, &PARAMETERS)?;
    let mut filter = filter(&query)?;
    if let Some((_, key)) = query.iter().find(|(name, _)| *name == BUSINESS_KEY) {
        filter.among = Some(about(&api, key).await?);
    }
    let limit = filter.limit.to_string();
    let shown = move |page: &Page| {
        let mut response = Json(SagaList::of(page)).into_response();
        if let Some(after) = page.next.map(|after| after.to_string()) {
            let of_list = query.iter().filter(|(name, _)| ![AFTER, LIMIT].contains(name));
            let of_list = of_list.map(|(name, value)| (*name, value.as_str()));
            let parameters: Vec<_> =
                of_list.chain([(LIMIT, limit.as_str()), (AFTER, after.as_str())]).collect();
            page::link_next(&mut response, PATH, &parameters);
        }
        response
    };
    api.lists.sagas(&filter, shown).await
}

/// Returns the sagas of a business key. A key is an order's id, and the order book knows its sagas: so the sagas'
/// table, which is written all the time, needs no index for it.
async fn about(api: &Api, key: &str) -> Result<Vec<Uuid>, Problem> {
    match key.parse() {
        Ok(order) => Ok(api.orders.sagas_of(order).await?),
        Err(_) => Ok(Vec::new()),
    }
}

fn admin(api: &Api) -> Admin {
    Admin::new(api.engine.store.database().clone())
}

fn filter(query: &[(&'static str, String)]) -> Result<Filter, Problem> {
    let mut filter = Filter { limit: PAGE_USUAL, ..Filter::default() };
    let mut faults = Vec::new();
    for (name, value) in query {
        match *name {
            "state" => {
                filter.state = STATES.into_iter().find(|s| s.as_str() == value);
                if filter.state.is_none() {
                    let why = "must be running, compensating, parked, completed or undone";
                    faults.push(Fault::parameter("state", why));
                }
            }
            BUSINESS_KEY if request::text(value, &()).is_err() => {
                faults.push(Fault::parameter(BUSINESS_KEY, "must be a business key"));
            }
            "step" if request::text(value, &()).is_ok() => filter.step = Some(value.clone()),
            "step" => faults.push(Fault::parameter("step", "must be the name of a step")),
            "stuck" => match value.parse() {
                Ok(stuck) => filter.stuck = Some(stuck),
                Err(_) => faults.push(Fault::parameter("stuck", "must be true or false")),
            },
            "holds" if value == "true" => filter.undone_holding = true,
            "holds" => faults.push(Fault::parameter("holds", "must be true, or left out")),
            "olderThan" => match humantime_serde::re::humantime::parse_duration(value) {
                Ok(age) if age <= Duration::from_secs(3650 * 86_400) => filter.older_than = Some(age),
                _ => faults.push(Fault::parameter("olderThan", "must be a time such as 5m or 2h")),
            },
            AFTER => match value.parse() {
                Ok(id) => filter.after = Some(id),
                Err(_) => faults.push(Fault::parameter(AFTER, "must be the `next` of the page before")),
            },
            LIMIT => match value.parse() {
                Ok(limit @ 1..=LARGEST_PAGE) => filter.limit = limit,
                _ => faults.push(Fault::parameter(LIMIT, "must be 1-500")),
            },
            _ => {}
        }
    }
    if faults.is_empty() { Ok(filter) } else { Err(Problem::Invalid(faults)) }
}

async fn read(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let view = view(&api, &caller, body::id("id", &id)?).await?;
    Representation::of(&view)?.read(&headers)
}

async fn view(api: &Api, caller: &Caller, id: Uuid) -> Result<SagaView, Problem> {
    let detail = admin(api).get(id).await?.ok_or_else(no_saga)?;
    Ok(shown_to(api, &detail, caller))
}

fn shown_to(api: &Api, detail: &Detail, caller: &Caller) -> SagaView {
    let definition = api.engine.catalog.get(&detail.saga.workflow, detail.saga.workflow_version);
    SagaView::of(detail, definition, caller)
}

fn no_saga() -> Problem {
    Problem::NotFound("There is no such saga.".to_owned())
}
