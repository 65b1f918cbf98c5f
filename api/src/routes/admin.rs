//! `/admin/sagas`: reads for operators. Their list is in [`list`], their actions are in [`actions`] and [`plans`], what they
//! read in [`view`].

mod actions;
mod explanation;
mod list;
mod plans;
mod view;

use std::sync::Arc;

use amends_http::{body, query};
use amends_postgres::admin::{Admin, Detail};
use axum::{
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode},
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
    http::{
        etag::Representation,
        openapi::{Answer, Operation, schema},
    },
    orders::request,
    problem::{Problem, problem_types},
    state::Api,
};
use view::SagaView;

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
            Method::GET,
            "/admin/sagas/{id}/explanation",
            reads,
            explanation::explain,
            Operation::new("explainSaga", "Say why a saga does not progress")
                .about(
                    "It looks at the saga, at the worker that the saga waits for, and at the broker; so it may take two \
                     seconds.",
                )
                .answer(Answer::json::<explanation::SagaExplanation>(
                    StatusCode::OK,
                    "Why, what comes next, and what can be done.",
                )),
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
        .merge(plans::routes())
        .each(|routes| routes.route_layer(from_fn(query::none)))
        .merge(list::routes())
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

fn admin(api: &Api) -> Admin {
    Admin::new(api.engine.store.database().clone())
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
