//! `/admin/sagas`: reads for operators. Their actions are in [`actions`].

mod actions;

use std::{sync::Arc, time::Duration};

use amends_engine::core::{
    Actor, Decision, Definition, Direction, Entry, Event, Input, Occurrence, Resend, Resolution, Retry, Saga,
    SagaState, transition,
};
use amends_http::{
    body,
    query::{self, Parameter},
};
use amends_postgres::{
    admin::{Admin, Detail, Filter, Listed, Page},
    odd_replies::OddRow,
};
use amends_protocol::id;
use axum::{
    extract::{OriginalUri, Path, State},
    http::{HeaderMap, Method},
    middleware::from_fn,
    response::Response,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    http::etag::Representation,
    orders::{
        request,
        view::{Item, instant},
    },
    problem::{Fault, Problem},
    state::Api,
};

const PAGE_USUAL: u32 = 50;
const LARGEST_PAGE: u32 = 500;

const BUSINESS_KEY: &str = "businessKey";
const PARAMETERS: [Parameter; 8] = [
    Parameter::Once(BUSINESS_KEY),
    Parameter::Once("state"),
    Parameter::Once("step"),
    Parameter::Once("stuck"),
    Parameter::Once("holds"),
    Parameter::Once("olderThan"),
    Parameter::Once("after"),
    Parameter::Once("limit"),
];

pub fn routes() -> Routes<Arc<Api>> {
    let (reads, acts) = (Access::Needs(Right::ReadSagas), Access::Needs(Right::ActOnSagas));
    Routes::default()
        .on(Method::GET, "/admin/sagas/{id}", reads, read)
        .on(Method::POST, "/admin/sagas/{id}/retry", acts, actions::retry)
        .on(Method::POST, "/admin/sagas/{id}/resend", acts, actions::resend)
        .on(Method::POST, "/admin/sagas/{id}/cancel", acts, actions::cancel)
        .on(Method::POST, "/admin/sagas/{id}/resolve", acts, actions::resolve)
        .on(Method::POST, "/admin/sagas/{id}/signal", acts, actions::signal)
        .each(|routes| routes.route_layer(from_fn(query::none)))
        .on(Method::GET, "/admin/sagas", reads, list)
}

async fn list(State(api): State<Arc<Api>>, OriginalUri(uri): OriginalUri) -> Result<Response, Problem> {
    let query = query::read(&uri, &PARAMETERS)?;
    let mut filter = filter(&query)?;
    if let Some((_, key)) = query.iter().find(|(name, _)| *name == BUSINESS_KEY) {
        filter.among = Some(about(&api, key).await?);
    }
    api.lists.sagas(&filter, shown).await
}

fn shown(page: &Page) -> Value {
    let items: Vec<Value> = page.items.iter().map(listed).collect();
    json!({ "items": items, "next": page.next })
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
            "holds" if value == "true" => filter.undone_holding = true,
            "holds" => faults.push(Fault::parameter("holds", "must be true, or left out")),
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

async fn read(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let view = view(&api, &caller, body::id("id", &id)?).await?;
    Representation::of(&view)?.read(&headers)
}

async fn view(api: &Api, caller: &Caller, id: Uuid) -> Result<Value, Problem> {
    let detail = admin(api).get(id).await?.ok_or_else(no_saga)?;
    Ok(shown_to(api, &detail, caller))
}

fn shown_to(api: &Api, detail: &Detail, caller: &Caller) -> Value {
    let definition = api.engine.catalog.get(&detail.saga.workflow, detail.saga.workflow_version);
    described(detail, definition, caller)
}

fn described(detail: &Detail, definition: Option<&Definition>, caller: &Caller) -> Value {
    let saga = &detail.saga;
    let input = Input { data: &detail.inputs.data, personal: None };
    let held = definition.map(|d| saga.holds(d, input));
    let (certain, possible) = held.unwrap_or_default();
    let beyond = definition.map(|d| saga.holds_beyond(d, input)).unwrap_or_default();
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
        "lastAnswer": last_answer(&detail.timeline),
        "oddReplies": detail.odd_replies.iter().map(odd).collect::<Vec<_>>(),
        "holds": { "certain": certain, "possible": possible, "beyond": beyond },
        "timeline": detail.timeline.iter().map(Item::from).collect::<Vec<_>>(),
        "actions": definition.map(|d| legal(detail, d, caller)).unwrap_or_default(),
    })
}

/// Returns what the saga waits for: a reply, a timer, or an operator.
fn waits_for(saga: &Saga, definition: &Definition) -> Vec<Value> {
    let mut waits = Vec::new();
    if let Some((signal, since)) = saga.awaited(definition) {
        let deadline = saga.state.commands.iter().rev().find(|c| definition.steps[c.step].name == signal);
        let deadline = deadline.and_then(|command| command.due_at).map(instant);
        waits.push(json!({ "signal": signal, "since": instant(since), "deadline": deadline }));
    }
    for command in &saga.state.commands {
        let (step, execute) = (definition.steps[command.step].name, command.id(saga.id, definition));
        let wait = |kind: &str, id: Uuid, attempt: u32, since, dues: [Option<_>; 2], parked: Option<&str>| {
            json!({
                "step": step, "command": kind, "commandId": id, "attempt": attempt, "since": instant(since),
                "nextLookAt": dues[0].map(instant), "parksAt": dues[1].map(instant), "parked": parked,
            })
        };
        match &command.undo {
            Some(undo) if !undo.done => {
                let parked = undo.parked.as_ref().map(|r| r.code.as_str());
                let (id, dues) = (id::undo(execute), [undo.due_at, undo.parks_at]);
                waits.push(wait("compensate", id, undo.attempt, undo.issued_at, dues, parked));
            }
            None if saga.state.direction == Direction::Forward
                && (command.status.is_open() || command.parked.is_some()) =>
            {
                let parked = command.parked.as_ref().map(|r| r.code.as_str());
                let since = command.sent_at.unwrap_or(command.issued_at);
                let dues = [command.due_at, command.parks_at];
                waits.push(wait("execute", execute, command.attempt, since, dues, parked));
            }
            _ => {}
        }
    }
    waits
}

/// Returns the last answer in the timeline, and when the engine processed it.
fn last_answer(timeline: &[Entry]) -> Option<Value> {
    timeline.iter().rev().find_map(|entry| match &entry.occurrence.event {
        Event::Replied(reply) => Some(json!({
            "commandId": reply.command_id,
            "step": reply.step,
            "kind": reply.kind,
            "outcome": reply.outcome,
            "attempt": reply.attempt,
            "receivedAt": instant(entry.occurrence.at),
        })),
        _ => None,
    })
}

/// Renders the replies that were ignored or dead-lettered for one reason.
fn odd(row: &OddRow) -> Value {
    json!({
        "reason": row.reason,
        "count": row.count,
        "firstAt": instant(row.first_at),
        "lastAt": instant(row.last_at),
        "deadLettered": row.dead_lettered,
        "last": {
            "commandId": row.command_id,
            "step": row.step,
            "kind": row.kind,
            "outcome": row.outcome,
            "attempt": row.attempt,
            "topic": row.topic,
            "partition": row.partition,
            "offset": row.offset,
        },
    })
}

/// Returns the actions that are legal now: those that the core would accept from the caller.
fn legal(detail: &Detail, definition: &Definition, caller: &Caller) -> Vec<&'static str> {
    if !caller.may(Right::ActOnSagas) {
        return Vec::new();
    }
    let by = Actor::new(caller.subject(), "");
    let seen = detail.saga.seen(definition);
    let resolution =
        |done| Resolution { by: by.clone(), seen, done, reference: "?".to_owned(), exposure: Vec::new() };
    let candidates = [
        ("retry", Event::RetryRequested(Retry { by: by.clone(), seen })),
        ("resend", Event::ResendRequested(Resend { by: by.clone(), seen: None })),
        ("cancel", Event::CancelRequested(by.clone())),
        ("resolve done", Event::Resolved(resolution(true))),
        ("resolve notDone", Event::Resolved(resolution(false))),
    ];
    let takes = |event: Event| {
        let occurrence = Occurrence { event, at: detail.now, jitter: 0 };
        matches!(transition(definition, &detail.saga, &occurrence), Decision::Changed(_))
    };
    let signal = detail.saga.awaited(definition).map(|_| "signal");
    let legal = candidates.into_iter().filter(|(_, event)| takes(event.clone())).map(|(name, _)| name);
    legal.chain(signal).collect()
}

fn no_saga() -> Problem {
    Problem::NotFound("There is no such saga.".to_owned())
}
