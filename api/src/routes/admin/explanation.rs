//! `GET /admin/sagas/{id}/explanation`: why nothing is happening.

use std::sync::Arc;

use amends_engine::operate::{Action, Kind, Surroundings, actions, awaited_participant, situation};
use amends_http::body;
use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    admin, no_saga,
    view::{Holdings, Wait, waits_for},
};
use crate::{
    auth::{Caller, Right},
    http::openapi::schema::Instant,
    orders::view::instant,
    problem::Problem,
    state::Api,
};

/// Why a saga does not progress, what comes next, and what can be done.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SagaExplanation {
    /// For a person.
    sentence: String,
    /// `waiting_for_reply`, `worker_away`, `worker_behind`, `worker_failing`, `backoff`, `probing`,
    /// `parked_outcome_unknown`, `parked_compensation`, `parked_retriable`, `poisoned`, `waiting_for_signal`,
    /// `timeout_pending`, `compensating`, `compensating_worker_away`, `cancelled_meanwhile`, `orphan_being_undone`,
    /// `engine_away`, `broker_away`, `unknown_version` or `ended`.
    kind: &'static str,
    /// The command or the signal that the sentence is about.
    #[schema(required)]
    waits_for: Option<Wait>,
    /// The worker that it waits for.
    #[schema(required)]
    participant: Option<ParticipantNow>,
    /// What the engine does next by itself.
    #[schema(required)]
    next: Option<NextStep>,
    holds: Holdings,
    actions: Vec<ActionNow>,
}

/// The worker that a saga waits for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ParticipantNow {
    name: &'static str,
    /// The time of its last answer to one of the newest sagas; null if there is none among them.
    #[schema(required, format = DateTime)]
    last_reply_at: Option<String>,
    /// The number of messages that it has not settled; null if the broker does not tell.
    #[schema(required)]
    lag: Option<i64>,
    /// `open` while the engine puts repetitions off, because the worker fails or is silent; otherwise `closed`.
    breaker: &'static str,
}

/// What the engine does next by itself.
#[derive(Debug, Serialize, ToSchema)]
struct NextStep {
    #[schema(value_type = Instant)]
    at: String,
    /// `probe`, `retry`, `compensate`, `cancel` or `giveUp`.
    what: &'static str,
}

/// An action, and whether it is possible now.
#[derive(Debug, Serialize, ToSchema)]
struct ActionNow {
    /// `retry`, `resend`, `cancel`, `resolve done`, `resolve notDone` or `signal`.
    action: &'static str,
    legal: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    why: Option<String>,
}

pub(super) async fn explain(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<SagaExplanation>, Problem> {
    let detail = admin(&api).get(body::id("id", &id)?).await?.ok_or_else(no_saga)?;
    let saga = &detail.saga;
    let definition = api.engine.catalog.get(&saga.workflow, saga.workflow_version);
    let participant = definition.and_then(|definition| awaited_participant(saga, definition));
    let around = match participant {
        Some(name) => api.participants.around(name, &api.engine.catalog).await?,
        None => Surroundings::default(),
    };
    let found = situation(saga, definition, &around, detail.now);
    let is_put_off =
        matches!(found.kind, Kind::WorkerFailing | Kind::WorkerAway | Kind::CompensatingWorkerAway)
            && saga.wake_at.is_some_and(|at| at > detail.now)
            && saga.only_repeats_due(detail.now).is_some();
    let may_act = caller.may(Right::ActOnSagas);
    let shown = |action: Action| {
        let role = (!may_act).then(|| "no role of the caller may act".to_owned());
        let why = action.refused.or(role);
        ActionNow { action: action.name, legal: why.is_none(), why }
    };
    let possible = definition.map(|definition| actions(saga, definition, detail.now)).unwrap_or_default();
    Ok(Json(SagaExplanation {
        sentence: found.sentence,
        kind: found.kind.as_str(),
        waits_for: definition.and_then(|definition| waits_for(saga, definition).pop()),
        participant: participant.map(|name| ParticipantNow {
            name,
            last_reply_at: around.worker.and_then(|worker| worker.last_reply_at).map(instant),
            lag: around.worker.map(|worker| worker.lag),
            breaker: if is_put_off { "open" } else { "closed" },
        }),
        next: found.next.map(|next| NextStep { at: instant(next.at), what: next.what }),
        holds: Holdings::of(&detail, definition),
        actions: possible.into_iter().map(shown).collect(),
    }))
}
