//! `/admin/plans`: what an action would do, and the action itself, only as it was planned.

mod effects;
mod request;

use std::{sync::Arc, time::Duration};

use amends_engine::{
    core::{Actor, Event, Illegal, Input, Resend, Resolution, Retry, Seen, Signal},
    operate::{NoPlan, Plan, plan},
    runtime::apply::{Applied, apply_at},
};
use amends_postgres::{
    admin::Detail,
    plans::{self, NewPlan, StoredPlan},
};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use self::{
    effects::PlanView,
    request::{ActionName, KINDS, PlanRequest},
};
use super::{
    actions::{Done, refused, would_hold},
    admin, no_saga, view,
    view::SagaView,
};
use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    http::openapi::{Answer, Operation},
    orders::view::instant,
    problem::{Problem, problem_types},
    state::Api,
};

/// How long a plan can be applied.
const PLAN_LIFETIME: Duration = Duration::from_secs(15 * 60);

pub(super) fn routes() -> Routes<Arc<Api>> {
    let acts = Access::Needs(Right::ActOnSagas);
    let example = json!({
        "action": "cancel",
        "saga": "01a20191-dc04-70a7-b9de-b92aad419056",
        "reason": "the customer has called",
    });
    Routes::default()
        .on(
            Method::POST,
            "/admin/plans",
            acts,
            make,
            Operation::new("planAction", "Say what an action on a saga would do")
                .about(
                    "Nothing is changed. The plan is known by its hash, and can be applied for 15 minutes. It is of the \
                     saga's present revision.",
                )
                .body::<PlanRequest>(example)
                .of_kinds("action", &KINDS)
                .answer(
                    Answer::json::<PlanView>(StatusCode::CREATED, "The plan.")
                        .link("applyPlan", "plan", "$response.body#/plan")
                        .link("readSaga", "id", "$response.body#/saga"),
                )
                .problems(&[problem_types::NOT_FOUND, problem_types::NOT_LEGAL_NOW, problem_types::STALE]),
        )
        .on(
            Method::POST,
            "/admin/plans/{plan}",
            acts,
            apply_plan,
            Operation::new("applyPlan", "Do what was planned")
                .about(
                    "It is done only as it was planned: if the saga has moved since, nothing is changed. A plan that is \
                     applied again gives its first answer.",
                )
                .answer(Answer::json::<SagaView>(StatusCode::OK, "The saga after it."))
                .problems(&[
                    problem_types::NOT_LEGAL_NOW,
                    problem_types::STALE,
                    problem_types::PLAN_OUTDATED,
                    problem_types::INVALID_REQUEST,
                ]),
        )
}

async fn make(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let request = PlanRequest::read(&headers, &body)?;
    let detail = admin(&api).get(request.saga).await?.ok_or_else(no_saga)?;
    let event = event(&api, &detail, &caller, request)?;
    let Plan { revision, basis, effects } = planned(&api, &detail, &event)?;
    let (hash, text) = (hash(&basis), text(&event)?);
    let new = NewPlan {
        hash: &hash,
        saga_id: detail.saga.id,
        revision,
        event: &text,
        planned_by: caller.subject(),
    };
    let expires_at = plans::keep(&api.engine.store.database().pool, new, PLAN_LIFETIME).await?;
    let plan = PlanView {
        plan: hash.clone(),
        saga: detail.saga.id,
        revision,
        effects: effects.into(),
        needs_approval: false,
        expires_at: instant(expires_at),
    };
    Ok((StatusCode::CREATED, Json(plan)).into_response())
}

async fn apply_plan(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(hash): Path<String>,
) -> Result<Response, Problem> {
    let pool = &api.engine.store.database().pool;
    let stored = plans::get(pool, &hash).await?.ok_or_else(no_plan)?;
    if let Some(answer) = &stored.answer {
        return Ok(as_json(answer.clone()));
    }
    apply_stored(&api, &caller, &stored).await?;
    let answer = text(&view(&api, &caller, stored.saga_id).await?)?;
    // Of two that apply it at once, the first to be recorded is the answer to both.
    let first = plans::answered(pool, &hash, &answer).await?;
    Ok(as_json(first.unwrap_or(answer)))
}

/// Applies a plan that has no answer yet. It may have been applied all the same: by a process that died before it had
/// recorded the answer.
async fn apply_stored(api: &Api, caller: &Caller, stored: &StoredPlan) -> Result<(), Problem> {
    let event: Event = serde_json::from_str(&stored.event).map_err(|_| Problem::Internal)?;
    let revision = u32::try_from(stored.revision).map_err(|_| Problem::Internal)?;
    let detail = admin(api).get(stored.saga_id).await?.ok_or_else(no_saga)?;
    if was_applied(&detail, revision, &event) {
        return Ok(());
    }
    if stored.has_expired {
        return Err(no_plan());
    }
    if detail.saga.revision != revision {
        return Err(moved(&detail, revision));
    }
    let now = planned(api, &detail, &event)?;
    if hash(&now.basis) != stored.hash {
        let what = now.effects.commands.join(", ");
        return Err(outdated(format!("By now it would send: {what}. Nothing was changed: plan anew.")));
    }
    let applied =
        apply_at(&api.engine, stored.saga_id, revision, acted_by(event.clone(), caller.subject())).await?;
    match applied {
        Some(Applied::Done(_)) => Ok(()),
        Some(Applied::Illegal(saga, why)) => Err(refused(&saga, why)),
        Some(Applied::Missing) => Err(no_saga()),
        None => {
            let detail = admin(api).get(stored.saga_id).await?.ok_or_else(no_saga)?;
            if was_applied(&detail, revision, &event) { Ok(()) } else { Err(moved(&detail, revision)) }
        }
    }
}

/// Returns what the event would do now.
fn planned(api: &Api, detail: &Detail, event: &Event) -> Result<Plan, Problem> {
    let saga = &detail.saga;
    let Some(definition) = api.engine.catalog.get(&saga.workflow, saga.workflow_version) else {
        let what = "This program does not know the saga's workflow in its version; a newer one does.";
        return Err(Problem::Unavailable(what.to_owned()));
    };
    let input = Input { data: &detail.inputs.data, personal: None };
    plan(saga, definition, input, event, detail.now).map_err(|none| match none {
        NoPlan::Illegal(why) => refused(saga, why),
        NoPlan::ChangesNothing => Problem::Refused(
            problem_types::NOT_LEGAL_NOW,
            format!("The saga is {} ({}): it would change nothing.", saga.state().as_str(), saga.label),
        ),
    })
}

/// Builds the event of a request. Without a revision it is of the present state.
fn event(api: &Api, detail: &Detail, caller: &Caller, request: PlanRequest) -> Result<Event, Problem> {
    let PlanRequest { action, reason, revision, command_id, outcome, reference, name, payload, .. } = request;
    let by = Actor::new(caller.subject(), reason);
    let present = detail.saga.revision;
    let seen = Seen { revision: revision.unwrap_or(present), command_id };
    if seen.revision != present {
        return Err(refused(&detail.saga, Illegal::Stale));
    }
    Ok(match action {
        ActionName::Retry => Event::RetryRequested(Retry { by, seen }),
        ActionName::Resend => Event::ResendRequested(Resend { by, seen: Some(seen) }),
        ActionName::Cancel => Event::CancelRequested(by),
        ActionName::Resolve => {
            let done = outcome == Some(Done::Done);
            let exposure = if done { would_hold(api, detail, seen) } else { Vec::new() };
            let reference = reference.unwrap_or_default();
            Event::Resolved(Resolution { by, seen, done, reference, exposure })
        }
        ActionName::Signal => Event::Signalled(Signal {
            name: name.unwrap_or_default(),
            payload: payload.unwrap_or_default().into(),
            by,
        }),
    })
}

/// Returns the event as done by this operator: the one who applies a plan need not be the one who made it.
fn acted_by(mut event: Event, who: &str) -> Event {
    let by = match &mut event {
        Event::CancelRequested(by) => Some(by),
        Event::RetryRequested(retry) => Some(&mut retry.by),
        Event::ResendRequested(resend) => Some(&mut resend.by),
        Event::Resolved(resolution) => Some(&mut resolution.by),
        Event::Signalled(signal) => Some(&mut signal.by),
        Event::Started(_) | Event::Replied(_) | Event::Woke | Event::Poisoned(_) => None,
    };
    if let Some(by) = by {
        who.clone_into(&mut by.who);
    }
    event
}

/// Returns whether the planned event is what has happened next, by any operator.
fn was_applied(detail: &Detail, revision: u32, event: &Event) -> bool {
    let next = detail.timeline.iter().find(|entry| entry.revision == revision + 1);
    next.is_some_and(|entry| acted_by(entry.occurrence.event.clone(), "") == acted_by(event.clone(), ""))
}

/// The saga has moved: says from where to where.
fn moved(Detail { saga, timeline, .. }: &Detail, revision: u32) -> Problem {
    let since = timeline.iter().filter(|entry| entry.revision > revision);
    let events: Vec<&str> = since.map(|entry| entry.occurrence.event.name()).collect();
    outdated(format!(
        "The plan is of revision {revision}, and the saga is at revision {} now, {} ({}), at `{}`. Since then: {}. Nothing was changed.",
        saga.revision,
        saga.state().as_str(),
        saga.label,
        saga.step,
        events.join(", "),
    ))
}

fn outdated(detail: String) -> Problem {
    Problem::Refused(problem_types::PLAN_OUTDATED, detail)
}

fn no_plan() -> Problem {
    Problem::NotFound("There is no such plan, or it has expired.".to_owned())
}

fn hash(basis: &str) -> String {
    hex::encode(Sha256::digest(basis))
}

fn text(value: &impl Serialize) -> Result<String, Problem> {
    serde_json::to_string(value).map_err(|_| Problem::Internal)
}

fn as_json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
