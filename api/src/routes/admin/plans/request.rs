//! What an operator asks to be planned.

use amends_http::body;
use axum::{body::Bytes, http::HeaderMap};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    http::openapi::schema::{Kind, Text},
    orders::request,
    problem::{Fault, Problem},
    routes::admin::actions::Done,
};

/// Which fields an action needs, and which it does not have.
pub(super) const KINDS: [Kind<'_>; 5] = [
    ("retry", &[], &["outcome", "reference", "name", "payload"]),
    ("resend", &[], &["outcome", "reference", "name", "payload"]),
    ("cancel", &[], &["commandId", "outcome", "reference", "name", "payload"]),
    ("resolve", &["outcome"], &["name", "payload"]),
    ("signal", &["name"], &["commandId", "outcome", "reference"]),
];

/// An action to plan.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PlanRequest {
    #[garde(skip)]
    pub(super) action: ActionName,
    /// The saga's id.
    #[garde(skip)]
    pub(super) saga: Uuid,
    #[garde(custom(request::text))]
    #[schema(value_type = Text)]
    pub(super) reason: String,
    /// The revision of the saga that the operator saw. Without it, the plan is of the present one.
    #[garde(skip)]
    #[serde(default)]
    pub(super) revision: Option<u32>,
    /// The waiting command, as `waitsFor` of the saga shows it. `retry` and `resolve` need it, unless the saga is
    /// `poisoned`.
    #[garde(skip)]
    #[serde(default)]
    pub(super) command_id: Option<Uuid>,
    /// How the command has ended: of `resolve`.
    #[garde(skip)]
    #[serde(default)]
    pub(super) outcome: Option<Done>,
    /// What the other side calls it: evidence, of `resolve`.
    #[garde(inner(custom(request::text)))]
    #[serde(default)]
    #[schema(value_type = Option<Text>)]
    pub(super) reference: Option<String>,
    /// The name of the signal: of `signal`.
    #[garde(inner(custom(request::text)))]
    #[serde(default)]
    #[schema(value_type = Option<Text>)]
    pub(super) name: Option<String>,
    /// What the saga's workflow understands for this signal: of `signal`.
    #[garde(skip)]
    #[serde(default)]
    pub(super) payload: Option<Value>,
}

/// The name of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum ActionName {
    Retry,
    Resend,
    Cancel,
    Resolve,
    Signal,
}

impl PlanRequest {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// [`Problem::Invalid`] names what is wrong, and the fields that the action does not have or needs.
    pub(super) fn read(headers: &HeaderMap, body: &Bytes) -> Result<Self, Problem> {
        let request: Self = body::read(headers, body)?;
        misplaced(&request)?;
        Ok(request)
    }
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
