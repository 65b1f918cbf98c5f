//! Operator actions on a saga: retry, resend, cancel, resolve, signal. Each is planned and applied in one.

use std::sync::Arc;

use amends_engine::{
    core::{Actor, Event, Illegal, Input, Resend, Resolution, Retry, Saga, Seen, Signal, Status},
    runtime::apply::{Applied, apply, apply_at},
};
use amends_http::body;
use amends_postgres::admin::Detail;
use amends_protocol::Exposure;
use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, FromRequestParts as _, Path, Request},
    response::{IntoResponse, Response},
};
use garde::Validate;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{admin, no_saga, shown_to, view, view::SagaView};
use crate::{
    auth::Caller,
    http::{
        etag::{self, IfMatch, Representation},
        openapi::schema::Text,
    },
    orders::request,
    problem::{Fault, Problem, problem_types},
    state::Api,
};

/// A retry: the state that the operator saw, and the reason.
#[derive(Debug, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RetryRequest {
    #[garde(custom(request::text))]
    #[schema(value_type = Text)]
    reason: String,
    /// The revision of the saga that the operator saw.
    #[garde(skip)]
    revision: u32,
    /// The waiting command, as `waitsFor` of the saga shows it.
    #[garde(skip)]
    #[serde(default)]
    command_id: Option<Uuid>,
}

/// A resend: the reason, and optionally the state that the operator saw.
#[derive(Debug, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ResendRequest {
    #[garde(custom(request::text))]
    #[schema(value_type = Text)]
    reason: String,
    /// The revision of the saga that the operator saw.
    #[garde(skip)]
    #[serde(default)]
    revision: Option<u32>,
    /// The waiting command, as `waitsFor` of the saga shows it.
    #[garde(skip)]
    #[serde(default)]
    command_id: Option<Uuid>,
}

/// A resolution: the operator's evidence, and the state that they saw.
#[derive(Debug, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ResolveRequest {
    #[garde(skip)]
    outcome: Done,
    #[garde(custom(request::text))]
    #[schema(value_type = Text)]
    reason: String,
    /// What the other side calls it. It is needed as evidence for most outcomes.
    #[garde(inner(custom(request::text)))]
    #[serde(default)]
    #[schema(value_type = Option<Text>)]
    reference: Option<String>,
    /// The revision of the saga that the operator saw.
    #[garde(skip)]
    revision: u32,
    /// The waiting command, as `waitsFor` of the saga shows it.
    #[garde(skip)]
    #[serde(default)]
    command_id: Option<Uuid>,
}

/// A signal: an event that a step of the saga waits for.
#[derive(Debug, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SignalRequest {
    #[garde(custom(request::text))]
    #[schema(value_type = Text)]
    name: String,
    /// What the saga's workflow understands for this signal.
    #[garde(skip)]
    #[serde(default)]
    payload: Value,
    #[garde(custom(request::text))]
    #[schema(value_type = Text)]
    reason: String,
}

/// How a command has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum Done {
    Done,
    NotDone,
}

/// An operator's request about one saga.
pub(super) struct Action<R> {
    api: Arc<Api>,
    by: Caller,
    id: Uuid,
    condition: Option<IfMatch>,
    request: R,
}

impl<R: DeserializeOwned + Serialize + Validate<Context = ()>> FromRequest<Arc<Api>> for Action<R> {
    type Rejection = Response;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Response> {
        let (mut head, body) = request.into_parts();
        let Path(id): Path<String> =
            Path::from_request_parts(&mut head, api).await.map_err(IntoResponse::into_response)?;
        let by = Caller::from_request_parts(&mut head, api).await.map_err(IntoResponse::into_response)?;
        let headers = head.headers.clone();
        let bytes = Bytes::from_request(Request::from_parts(head, body), api)
            .await
            .map_err(IntoResponse::into_response)?;
        let read = || {
            let (id, condition) = (body::id("id", &id)?, IfMatch::read(&headers)?);
            Ok::<_, Problem>((id, condition, body::read(&headers, &bytes)?))
        };
        let (id, condition, request) = read().map_err(Problem::into_response)?;
        Ok(Self { api: Arc::clone(api), by, id, condition, request })
    }
}

pub(super) async fn retry(
    Action { api, by: caller, id, condition, request }: Action<RetryRequest>,
) -> Result<Json<SagaView>, Problem> {
    let RetryRequest { reason, revision, command_id } = request;
    let (by, seen) = (Actor::new(caller.subject(), reason), Seen { revision, command_id });
    act(&api, &caller, (id, condition), Event::RetryRequested(Retry { by, seen })).await
}

pub(super) async fn resend(
    Action { api, by: caller, id, condition, request }: Action<ResendRequest>,
) -> Result<Json<SagaView>, Problem> {
    let ResendRequest { reason, revision, command_id } = request;
    let seen = match (revision, command_id) {
        (Some(revision), command_id) => Some(Seen { revision, command_id }),
        (None, None) => None,
        (None, Some(_)) => {
            let why = "must be the saga's revision that you saw";
            return Err(Problem::Invalid(vec![Fault::at("/revision", why)]));
        }
    };
    let by = Actor::new(caller.subject(), reason);
    act(&api, &caller, (id, condition), Event::ResendRequested(Resend { by, seen })).await
}

pub(super) async fn cancel(
    Action { api, by: caller, id, condition, request }: Action<request::CancelRequest>,
) -> Result<Json<SagaView>, Problem> {
    let request::CancelRequest { reason } = request;
    act(&api, &caller, (id, condition), Event::CancelRequested(Actor::new(caller.subject(), reason))).await
}

pub(super) async fn resolve(
    Action { api, by: caller, id, condition, request }: Action<ResolveRequest>,
) -> Result<Json<SagaView>, Problem> {
    let ResolveRequest { outcome, reason, reference, revision, command_id } = request;
    let (done, seen) = (outcome == Done::Done, Seen { revision, command_id });
    let exposure = match done {
        true => would_hold(&api, &admin(&api).get(id).await?.ok_or_else(no_saga)?, seen),
        false => Vec::new(),
    };
    let (by, reference) = (Actor::new(caller.subject(), reason), reference.unwrap_or_default());
    act(&api, &caller, (id, condition), Event::Resolved(Resolution { by, seen, done, reference, exposure }))
        .await
}

pub(super) async fn signal(
    Action { api, by: caller, id, condition, request }: Action<SignalRequest>,
) -> Result<Json<SagaView>, Problem> {
    let SignalRequest { name, payload, reason } = request;
    let signal = Signal { name, payload: payload.into(), by: Actor::new(caller.subject(), reason) };
    act(&api, &caller, (id, condition), Event::Signalled(signal)).await
}

/// Returns what the step would hold: a command resolved as done counts like a success in the books.
pub(super) fn would_hold(api: &Api, detail: &Detail, seen: Seen) -> Vec<Exposure> {
    let saga = &detail.saga;
    let Some(definition) = api.engine.catalog.get(&saga.workflow, saga.workflow_version) else {
        return Vec::new();
    };
    let named = saga.state.commands.iter().find(|c| Some(c.id(saga.id, definition)) == seen.command_id);
    let Some(command) = named.filter(|c| c.undo.is_none() && c.status != Status::Succeeded) else {
        return Vec::new();
    };
    let call = saga.call(command.part, Input { data: &detail.inputs.data, personal: None });
    (definition.steps[command.step].may_hold)(&call)
}

async fn act(
    api: &Api,
    caller: &Caller,
    (id, condition): (Uuid, Option<IfMatch>),
    event: Event,
) -> Result<Json<SagaView>, Problem> {
    let applied = match condition {
        None => apply(&api.engine, id, event).await?,
        Some(condition) => {
            let detail = admin(api).get(id).await?.ok_or_else(no_saga)?;
            condition.check(&Representation::of(&shown_to(api, &detail, caller))?.tag)?;
            let applied = apply_at(&api.engine, id, detail.saga.revision, event).await?;
            applied.ok_or_else(etag::precondition_failed)?
        }
    };
    match applied {
        Applied::Done(_) => view(api, caller, id).await.map(Json),
        Applied::Illegal(saga, why) => Err(refused(&saga, why)),
        Applied::Missing => Err(no_saga()),
    }
}

pub(super) fn refused(saga: &Saga, why: Illegal) -> Problem {
    let at = |pointer: &str, why: &str| Problem::Invalid(vec![Fault::at(pointer, why)]);
    match why {
        Illegal::NeedsReference => {
            at("/reference", "evidence from the other side is needed: a bank's or a carrier's reference")
        }
        Illegal::NeedsCommand => {
            at("/commandId", "must name the waiting command, as `waitsFor` of the saga shows it")
        }
        Illegal::Stale => Problem::Refused(
            problem_types::STALE,
            format!(
                "It is at revision {} now, {} ({}), or another of its commands waits. Look again before you settle anything.",
                saga.revision,
                saga.state().as_str(),
                saga.label
            ),
        ),
        Illegal::UnknownSignal => {
            at("/name", "must be the name of a signal that the saga's workflow waits for at some step")
        }
        Illegal::MalformedSignal => {
            at("/payload", "must be a payload that the saga's workflow understands for this signal")
        }
        why => Problem::Refused(
            problem_types::NOT_LEGAL_NOW,
            format!("The saga is {} ({}): {why}.", saga.state().as_str(), saga.label),
        ),
    }
}
