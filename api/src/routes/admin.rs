//! `/admin/sagas`: what an operator sees and may do.

use std::{sync::Arc, time::Duration};

use amends_engine::{
    core::{
        Actor, CommandState, Decision, Definition, Direction, Event, Illegal, Input, Occurrence, Resolution,
        Saga, SagaState, Status, transition,
    },
    runtime::apply::{Applied, apply},
};
use amends_http::{
    body,
    query::{self, Parameter},
};
use amends_postgres::admin::{Admin, Detail, Filter, Listed};
use amends_protocol::id;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{OriginalUri, Path, State},
    http::HeaderMap,
    middleware::from_fn,
    routing::{get, post},
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    orders::{
        request,
        view::{Item, instant},
    },
    problem::{Fault, Problem},
    state::{Api, SUBJECT},
};

const PAGE: u32 = 50;
const LARGEST_PAGE: u32 = 500;

const BUSINESS_KEY: &str = "businessKey";
const PARAMETERS: [Parameter; 7] = [
    Parameter::Once(BUSINESS_KEY),
    Parameter::Once("state"),
    Parameter::Once("step"),
    Parameter::Once("stuck"),
    Parameter::Once("olderThan"),
    Parameter::Once("after"),
    Parameter::Once("limit"),
];

pub fn router() -> Router<Arc<Api>> {
    Router::new()
        .route("/admin/sagas/{id}", get(read))
        .route("/admin/sagas/{id}/retry", post(retry))
        .route("/admin/sagas/{id}/cancel", post(cancel))
        .route("/admin/sagas/{id}/resolve", post(resolve))
        .route_layer(from_fn(query::none))
        .route("/admin/sagas", get(list))
}

async fn list(State(api): State<Arc<Api>>, OriginalUri(uri): OriginalUri) -> Result<Json<Value>, Problem> {
    let query = query::read(&uri, &PARAMETERS)?;
    let mut filter = filter(&query)?;
    if let Some((_, key)) = query.iter().find(|(name, _)| *name == BUSINESS_KEY) {
        filter.among = Some(about(&api, key).await?);
    }
    let page = admin(&api).list(&filter).await?;
    let items: Vec<Value> = page.items.iter().map(listed).collect();
    Ok(Json(json!({ "items": items, "next": page.next })))
}

/// The sagas of a business key. A key is an order's id, and the order book knows its sagas: so the sagas' table, which
/// is written all the time, needs no index for it.
async fn about(api: &Api, key: &str) -> Result<Vec<Uuid>, Problem> {
    match key.parse() {
        Ok(order) => Ok(api.orders.saga_of(order).await?.into_iter().collect()),
        Err(_) => Ok(Vec::new()),
    }
}

fn admin(api: &Api) -> Admin {
    Admin::new(api.engine.store.pool().clone())
}

fn filter(query: &[(&'static str, String)]) -> Result<Filter, Problem> {
    let mut filter = Filter { limit: PAGE, ..Filter::default() };
    let mut faults = Vec::new();
    for (name, value) in query {
        match *name {
            "state" => {
                let states = [
                    SagaState::Running,
                    SagaState::Compensating,
                    SagaState::Parked,
                    SagaState::Completed,
                    SagaState::Undone,
                ];
                filter.state = states.into_iter().find(|s| s.as_str() == value);
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
            "olderThan" => match humantime_serde::re::humantime::parse_duration(value) {
                Ok(age) if age <= Duration::from_secs(3650 * 86_400) => filter.older_than = Some(age),
                _ => faults.push(Fault::parameter("olderThan", "must be a time such as 5m or 2h")),
            },
            "after" => match value.parse() {
                Ok(id) => filter.after = Some(id),
                Err(_) => faults.push(Fault::parameter("after", "must be the `next` of the page before")),
            },
            "limit" => match value.parse() {
                Ok(limit @ 1..=LARGEST_PAGE) => filter.limit = limit,
                _ => faults.push(Fault::parameter("limit", "must be 1-500")),
            },
            _ => {}
        }
    }
    if faults.is_empty() { Ok(filter) } else { Err(Problem::Invalid(faults)) }
}

fn listed(row: &Listed) -> Value {
    json!({
        "id": row.id,
        "businessKey": row.business_key,
        "workflow": format!("{}@{}", row.workflow, row.workflow_version),
        "state": row.state.as_str(),
        "label": row.label,
        "step": row.step,
        "reason": row.reason.as_ref().map(|r| &r.code),
        "since": instant(row.since),
        "stuck": row.stuck_at.is_some(),
    })
}

async fn read(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    view(&api, body::id("id", &id)?).await
}

async fn view(api: &Api, id: Uuid) -> Result<Json<Value>, Problem> {
    let detail = admin(api).get(id).await?.ok_or_else(no_saga)?;
    let definition = api.engine.catalog.get(&detail.saga.workflow, detail.saga.workflow_version);
    Ok(Json(described(&detail, definition)))
}

fn described(detail: &Detail, definition: Option<&Definition>) -> Value {
    let saga = &detail.saga;
    let input = Input { data: &detail.inputs.data, personal: None };
    let held = definition.map(|d| saga.holds(d, input));
    let (certain, possible) = held.unwrap_or_default();
    let reason = if saga.parked { saga.parked_reason() } else { saga.reason.as_ref() };
    json!({
        "id": saga.id,
        "businessKey": saga.business_key,
        "workflow": format!("{}@{}", saga.workflow, saga.workflow_version),
        "state": saga.state().as_str(),
        "label": saga.label,
        "headingFor": saga.heading_for,
        "step": saga.step,
        "reason": reason.map(|r| &r.code),
        "reasonText": reason.map(|r| &r.text).filter(|t| !t.is_empty()),
        "since": instant(saga.since),
        "stuck": detail.stuck_at.is_some(),
        "revision": saga.revision,
        "createdAt": instant(saga.born_at),
        "updatedAt": instant(detail.updated_at),
        "cancelsAt": saga.state.timeout_at.map(instant),
        "waitsFor": definition.map(|d| waits_for(saga, d)).unwrap_or_default(),
        "holds": { "certain": certain, "possible": possible },
        "timeline": detail.timeline.iter().map(Item::from).collect::<Vec<_>>(),
        "actions": definition.map(|d| legal(detail, d)).unwrap_or_default(),
    })
}

/// What the saga waits for: a reply, a time, or an operator.
fn waits_for(saga: &Saga, definition: &Definition) -> Vec<Value> {
    let mut waits = Vec::new();
    for command in &saga.state.commands {
        let (step, execute) = (definition.steps[command.step].name, command.id(saga.id, definition));
        let wait = |kind: &str, id: Uuid, attempt: u32, since, next: Option<_>, parked: Option<&str>| {
            json!({
                "step": step, "command": kind, "commandId": id, "attempt": attempt,
                "since": instant(since), "nextLookAt": next.map(instant), "parked": parked,
            })
        };
        match &command.undo {
            Some(undo) if !undo.done => {
                let parked = undo.parked.as_ref().map(|r| r.code.as_str());
                let id = id::undo(execute);
                waits.push(wait("compensate", id, undo.attempt, undo.issued_at, undo.due_at, parked));
            }
            None if saga.state.direction == Direction::Forward
                && (command.status.is_open() || command.parked.is_some()) =>
            {
                let parked = command.parked.as_ref().map(|r| r.code.as_str());
                let since = command.sent_at.unwrap_or(command.issued_at);
                waits.push(wait("execute", execute, command.attempt, since, command.due_at, parked));
            }
            _ => {}
        }
    }
    waits
}

/// The actions that are legal now: those that the core would take.
fn legal(detail: &Detail, definition: &Definition) -> Vec<&'static str> {
    let by = Actor::new(SUBJECT, "");
    let resolution =
        |done| Resolution { by: by.clone(), done, reference: "?".to_owned(), exposure: Vec::new() };
    let candidates = [
        ("retry", Event::RetryRequested(by.clone())),
        ("cancel", Event::CancelRequested(by.clone())),
        ("resolve done", Event::Resolved(resolution(true))),
        ("resolve notDone", Event::Resolved(resolution(false))),
    ];
    let takes = |event: Event| {
        let occurrence = Occurrence { event, at: detail.now, jitter: 0 };
        matches!(transition(definition, &detail.saga, &occurrence), Decision::Changed(_))
    };
    candidates.into_iter().filter(|(_, event)| takes(event.clone())).map(|(name, _)| name).collect()
}

/// Why an operator does something.
#[derive(Debug, Serialize, Deserialize, Validate)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Because {
    #[garde(custom(request::text))]
    reason: String,
}

/// What an operator knows from elsewhere.
#[derive(Debug, Serialize, Deserialize, Validate)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resolve {
    #[garde(skip)]
    outcome: Done,
    #[garde(custom(request::text))]
    reason: String,
    #[garde(inner(custom(request::text)))]
    #[serde(default)]
    reference: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Done {
    Done,
    NotDone,
}

async fn retry(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Json<Value>, Problem> {
    because(&api, &id, &headers, &bytes, Event::RetryRequested).await
}

async fn cancel(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Json<Value>, Problem> {
    because(&api, &id, &headers, &bytes, Event::CancelRequested).await
}

/// An action that needs a reason and nothing else.
async fn because(
    api: &Api,
    id: &str,
    headers: &HeaderMap,
    bytes: &Bytes,
    event: fn(Actor) -> Event,
) -> Result<Json<Value>, Problem> {
    let id = body::id("id", id)?;
    let because: Because = body::read(headers, bytes)?;
    act(api, id, event(Actor::new(SUBJECT, because.reason))).await
}

async fn resolve(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Json<Value>, Problem> {
    let id = body::id("id", &id)?;
    let resolve: Resolve = body::read(&headers, &bytes)?;
    let done = resolve.outcome == Done::Done;
    let mut exposure = Vec::new();
    if done {
        // A resolution by hand counts in the books as its outcome: what the step would hold, it holds.
        let detail = admin(&api).get(id).await?.ok_or_else(no_saga)?;
        let definition = api.engine.catalog.get(&detail.saga.workflow, detail.saga.workflow_version);
        let parked = detail.saga.parked_command();
        if let (Some(definition), Some(CommandState { step, part, undo: None, status, .. })) =
            (definition, parked)
            && *status != Status::Succeeded
        {
            let call = detail.saga.call(*part, Input { data: &detail.inputs.data, personal: None });
            exposure = (definition.steps[*step].may_hold)(&call);
        }
    }
    let by = Actor::new(SUBJECT, resolve.reason);
    let reference = resolve.reference.unwrap_or_default();
    act(&api, id, Event::Resolved(Resolution { by, done, reference, exposure })).await
}

async fn act(api: &Api, id: Uuid, event: Event) -> Result<Json<Value>, Problem> {
    match apply(&api.engine, id, event).await? {
        Applied::Done(_) => view(api, id).await,
        Applied::Illegal(_, Illegal::NeedsReference) => {
            let why = "evidence from the other side is needed: a bank's or a carrier's reference";
            Err(Problem::Invalid(vec![Fault::at("/reference", why)]))
        }
        Applied::Illegal(saga, why) => Err(Problem::Conflict {
            slug: "not-legal-now",
            title: "This is not possible in the state that the saga is in",
            detail: format!("The saga is {} ({}): {why}.", saga.state().as_str(), saga.label),
        }),
        Applied::Missing => Err(no_saga()),
    }
}

fn no_saga() -> Problem {
    Problem::NotFound("There is no such saga.".to_owned())
}
