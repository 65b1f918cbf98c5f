//! `/admin/plans`: what an action would do, and the action itself, only as it was planned.

use std::{sync::Arc, time::Duration};

use amends_engine::{
    core::{Actor, Event, Illegal, Input, Resend, Resolution, Retry, Seen, Signal},
    operate::{Effects, NoPlan, Plan, plan},
    runtime::apply::{Applied, apply_at},
};
use amends_http::body;
use amends_postgres::{
    admin::Detail,
    plans::{self, NewPlan, StoredPlan},
};
use amends_protocol::Exposure;
use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

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
    http::openapi::{
        Answer, Operation,
        schema::{Holding, Instant, Kind, Text},
    },
    orders::{request, view::instant},
    problem::{Fault, Problem, problem_types},
    state::Api,
};

/// How long a plan can be applied.
const PLAN_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// Which fields an action needs, and which it does not have.
const KINDS: [Kind<'_>; 5] = [
    ("retry", &[], &["outcome", "reference", "name", "payload"]),
    ("resend", &[], &["outcome", "reference", "name", "payload"]),
    ("cancel", &[], &["commandId", "outcome", "reference", "name", "payload"]),
    ("resolve", &["outcome"], &["name", "payload"]),
    ("signal", &["name"], &["commandId", "outcome", "reference"]),
];

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

/// An action to plan.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PlanRequest {
    #[garde(skip)]
    action: ActionName,
    /// The saga's id.
    #[garde(skip)]
    saga: Uuid,
    #[garde(custom(request::text))]
    #[schema(value_type = Text)]
    reason: String,
    /// The revision of the saga that the operator saw. Without it, the plan is of the present one.
    #[garde(skip)]
    #[serde(default)]
    revision: Option<u32>,
    /// The waiting command, as `waitsFor` of the saga shows it. `retry` and `resolve` need it, unless the saga is
    /// `poisoned`.
    #[garde(skip)]
    #[serde(default)]
    command_id: Option<Uuid>,
    /// How the command has ended: of `resolve`.
    #[garde(skip)]
    #[serde(default)]
    outcome: Option<Done>,
    /// What the other side calls it: evidence, of `resolve`.
    #[garde(inner(custom(request::text)))]
    #[serde(default)]
    #[schema(value_type = Option<Text>)]
    reference: Option<String>,
    /// The name of the signal: of `signal`.
    #[garde(inner(custom(request::text)))]
    #[serde(default)]
    #[schema(value_type = Option<Text>)]
    name: Option<String>,
    /// What the saga's workflow understands for this signal: of `signal`.
    #[garde(skip)]
    #[serde(default)]
    payload: Option<Value>,
}

/// The name of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
enum ActionName {
    Retry,
    Resend,
    Cancel,
    Resolve,
    Signal,
}

/// A plan: what an action would do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Plan)]
#[serde(rename_all = "camelCase")]
struct PlanView {
    /// The hash by which the plan is known and applied.
    plan: String,
    saga: Uuid,
    /// The revision at which it is applied.
    revision: u32,
    effects: EffectsView,
    /// Whether somebody else must approve it first.
    needs_approval: bool,
    /// Until when it can be applied.
    #[schema(value_type = Instant)]
    expires_at: String,
}

/// What a plan would do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlanEffects)]
struct EffectsView {
    /// The commands that are sent at once: `pay compensate`.
    commands: Vec<String>,
    /// The saga's label before and after.
    label: [String; 2],
    /// How the money that the saga holds changes, until it ends or waits again: a negative amount is given back.
    #[schema(value_type = Vec<Holding>)]
    money: Vec<Exposure>,
    /// The same of stock.
    #[schema(value_type = Vec<Holding>)]
    stock: Vec<Exposure>,
    /// The same of all else.
    #[schema(value_type = Vec<Holding>)]
    other: Vec<Exposure>,
    /// What the engine does next by itself.
    timers: Vec<TimerView>,
    /// Whether the saga can still go the way that it goes now.
    reversible: bool,
}

/// What the engine will do by itself.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlanTimer)]
struct TimerView {
    #[schema(value_type = Instant)]
    at: String,
    /// `probe`, `retry`, `compensate`, `cancel` or `giveUp`.
    what: &'static str,
}

impl From<Effects> for EffectsView {
    fn from(effects: Effects) -> Self {
        let Effects { commands, label, held, timers, is_reversible } = effects;
        let (money, rest): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|exposure| exposure.kind.starts_with("money"));
        let (stock, other) = rest.into_iter().partition(|exposure| exposure.kind.starts_with("stock"));
        let timers = timers.into_iter().map(|next| TimerView { at: instant(next.at), what: next.what });
        Self {
            commands,
            label: [label.0, label.1],
            money,
            stock,
            other,
            timers: timers.collect(),
            reversible: is_reversible,
        }
    }
}

async fn make(
    State(api): State<Arc<Api>>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let request: PlanRequest = body::read(&headers, &body)?;
    misplaced(&request)?;
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

/// Refuses fields that the action does not have, and names those that it needs.
fn misplaced(request: &PlanRequest) -> Result<(), Problem> {
    let is = |action| request.action == action;
    let (resolves, signals) = (is(ActionName::Resolve), is(ActionName::Signal));
    let given = [
        ("/outcome", request.outcome.is_some(), resolves, resolves),
        ("/reference", request.reference.is_some(), resolves, false),
        ("/name", request.name.is_some(), signals, signals),
        ("/payload", request.payload.is_some(), signals, false),
        ("/commandId", request.command_id.is_some(), !is(ActionName::Cancel) && !signals, false),
    ];
    let faults = given.into_iter().filter_map(|(pointer, is_given, may, must)| match (is_given, may, must) {
        (true, false, _) => Some(Fault::at(pointer, "is no field of this action")),
        (false, _, true) => Some(Fault::at(pointer, "is needed for this action")),
        _ => None,
    });
    let faults: Vec<Fault> = faults.collect();
    if faults.is_empty() { Ok(()) } else { Err(Problem::Invalid(faults)) }
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

/// Returns the event as done by somebody: who applies a plan need not be who has made it.
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

/// Returns whether the planned event is what has happened next, whoever has applied it.
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
