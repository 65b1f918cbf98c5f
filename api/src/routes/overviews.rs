//! What operators see of the deployment as a whole: participants, definitions, timers, and effects without an order.

use std::{fmt::Write as _, sync::Arc};

use amends_engine::core::{Definition, StepKind};
use amends_http::query::{self, Parameter};
use amends_protocol::Exposure;
use axum::{
    Json,
    extract::{OriginalUri, State},
    http::{Method, StatusCode, Uri},
    middleware::from_fn,
};
use futures::future::try_join_all;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    auth::{
        Right,
        access::{Access, Routes},
    },
    http::openapi::{
        Answer, Operation,
        schema::{self, Holding, Instant},
    },
    orders::view::instant,
    problem::{Fault, Problem, problem_types},
    services,
    state::Api,
};

const LIMIT: &str = "limit";
const PAGE_USUAL: u32 = 50;
const LARGEST_PAGE: u32 = 500;

pub fn routes() -> Routes<Arc<Api>> {
    let reads = Access::Needs(Right::ReadSagas);
    let limited = |operation: Operation| {
        operation
            .query(LIMIT, "Largest number of items.", schema::limit(PAGE_USUAL, LARGEST_PAGE), 50)
            .problems(&[problem_types::BUSY])
    };
    let participants = Operation::new("listParticipants", "List the workers, and how far each is")
        .about("The broker is asked, and workers that are behind are watched; so it may take seconds.")
        .answer(Answer::json::<ParticipantList>(StatusCode::OK, "The workers that execute commands."));
    let definitions = Operation::new("listDefinitions", "List the workflows, in each version")
        .about("Also versions that this program does not know, of which sagas have not ended.")
        .answer(Answer::json::<DefinitionList>(StatusCode::OK, "The workflows."))
        .problems(&[problem_types::BUSY]);
    let timers =
        Operation::new("listTimers", "List the sagas that are woken next")
            .answer(Answer::json::<TimerList>(StatusCode::OK, "The earliest first."));
    let orphans = Operation::new("listOrphans", "List effects that no saga here has ordered")
        .about(
            "Each is the success of a command that is unknown here: something outside is held without an order. Effects that \
             were found after the end of their saga are in `GET /admin/sagas?holds=true`.",
        )
        .answer(Answer::json::<OrphanList>(StatusCode::OK, "Those of the newest sagas first."));
    Routes::default()
        .on(Method::GET, "/admin/participants", reads, list_participants, participants)
        .on(Method::GET, "/admin/definitions", reads, list_definitions, definitions)
        .each(|routes| routes.route_layer(from_fn(query::none)))
        .on(Method::GET, "/admin/timers", reads, list_timers, limited(timers))
        .on(Method::GET, "/admin/orphans", reads, list_orphans, limited(orphans))
}

/// The workers that execute commands.
#[derive(Debug, Serialize, ToSchema)]
struct ParticipantList {
    items: Vec<ParticipantItem>,
}

/// A worker that executes commands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Participant)]
#[serde(rename_all = "camelCase")]
struct ParticipantItem {
    name: String,
    /// The steps whose commands it executes.
    steps: Vec<String>,
    /// The number of messages that it has not settled; null if the broker does not tell.
    #[schema(required)]
    lag: Option<i64>,
    /// The time of its last answer to one of the newest sagas; null if there is none among them.
    #[schema(required, format = DateTime)]
    last_reply_at: Option<String>,
    /// Whether commands wait of which it has taken none while it was watched.
    away: bool,
}

/// The workflows.
#[derive(Debug, Serialize, ToSchema)]
struct DefinitionList {
    items: Vec<DefinitionItem>,
}

/// A workflow in one version.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Definition)]
#[serde(rename_all = "camelCase")]
struct DefinitionItem {
    workflow: String,
    version: u32,
    /// Whether this program knows it.
    known: bool,
    /// The number of its sagas that have not ended.
    live_sagas: i64,
    steps: Vec<StepItem>,
    /// The steps as a flowchart of Mermaid; empty if this program does not know it.
    diagram: String,
}

/// A step of a workflow.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Step)]
struct StepItem {
    name: &'static str,
    /// The worker that executes it; null if it waits for a signal.
    #[schema(required)]
    participant: Option<&'static str>,
    /// `compensatable`, `pivot` or `retriable`.
    kind: &'static str,
}

/// Sagas that will be woken.
#[derive(Debug, Serialize, ToSchema)]
struct TimerList {
    items: Vec<TimerItem>,
}

/// A saga that will be woken.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Timer)]
#[serde(rename_all = "camelCase")]
struct TimerItem {
    saga: Uuid,
    /// The id of the order.
    business_key: String,
    /// Name and version.
    workflow: String,
    label: String,
    step: String,
    #[schema(value_type = Instant)]
    at: String,
}

/// Effects that no saga here has ordered.
#[derive(Debug, Serialize, ToSchema)]
struct OrphanList {
    items: Vec<OrphanItem>,
}

/// An effect that no saga here has ordered.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Orphan)]
#[serde(rename_all = "camelCase")]
struct OrphanItem {
    /// The saga that the reply names.
    saga: Uuid,
    command_id: Uuid,
    #[schema(value_type = Instant)]
    received_at: String,
    #[schema(required)]
    step: Option<String>,
    #[schema(required)]
    kind: Option<String>,
    #[schema(required)]
    outcome: Option<String>,
    /// What it holds outside.
    #[schema(value_type = Vec<Holding>)]
    holds: Vec<Exposure>,
}

async fn list_participants(State(api): State<Arc<Api>>) -> Result<Json<ParticipantList>, Problem> {
    let (participants, catalog) = (&api.participants, &api.engine.catalog);
    let looks = services::workers().filter_map(|service| {
        let steps = catalog.iter().flat_map(|definition| &definition.steps);
        let mut steps: Vec<String> =
            steps.filter(|step| step.participant == service.name).map(|step| step.name.to_owned()).collect();
        steps.sort();
        steps.dedup();
        // A worker that only reads events executes no commands.
        if steps.is_empty() {
            return None;
        }
        Some(async move {
            let progress = participants.around(service.name, catalog).await?.worker;
            Ok::<_, Problem>(ParticipantItem {
                name: service.name.to_owned(),
                steps,
                lag: progress.map(|worker| worker.lag),
                last_reply_at: progress.and_then(|worker| worker.last_reply_at).map(instant),
                away: progress.is_some_and(|worker| worker.lag > 0 && !worker.is_settling),
            })
        })
    });
    // A worker that is behind is watched for a while: all at the same time.
    Ok(Json(ParticipantList { items: try_join_all(looks).await? }))
}

async fn list_definitions(State(api): State<Arc<Api>>) -> Result<Json<DefinitionList>, Problem> {
    let live = api.lists.live_versions().await?;
    let sagas_of = |name: &str, version: u32| {
        let of =
            live.iter().find(|of| of.workflow == name && u32::try_from(of.workflow_version) == Ok(version));
        of.map(|of| of.sagas).unwrap_or_default()
    };
    let known = api.engine.catalog.iter().map(|definition| DefinitionItem {
        workflow: definition.name.to_owned(),
        version: definition.version,
        known: true,
        live_sagas: sagas_of(definition.name, definition.version),
        steps: definition.steps.iter().map(StepItem::from).collect(),
        diagram: diagram(definition),
    });
    let mut items: Vec<DefinitionItem> = known.collect();
    for of in &live {
        let version = u32::try_from(of.workflow_version).unwrap_or_default();
        if api.engine.catalog.get(&of.workflow, version).is_none() {
            items.push(DefinitionItem {
                workflow: of.workflow.clone(),
                version,
                known: false,
                live_sagas: of.sagas,
                steps: Vec::new(),
                diagram: String::new(),
            });
        }
    }
    Ok(Json(DefinitionList { items }))
}

impl From<&amends_engine::core::Step> for StepItem {
    fn from(step: &amends_engine::core::Step) -> Self {
        Self {
            name: step.name,
            participant: Some(step.participant).filter(|participant| !participant.is_empty()),
            kind: match step.kind {
                StepKind::Compensatable => "compensatable",
                StepKind::Pivot => "pivot",
                StepKind::Retriable => "retriable",
            },
        }
    }
}

/// Draws a workflow as a flowchart of Mermaid: the steps in their order, and where their participants come in.
fn diagram(definition: &Definition) -> String {
    let mut drawn = "flowchart LR\n".to_owned();
    for (at, step) in definition.steps.iter().enumerate() {
        let by = if step.participant.is_empty() { "signal" } else { step.participant };
        let (open, close) = match step.kind {
            StepKind::Compensatable => ("[", "]"),
            StepKind::Pivot => ("{{", "}}"),
            StepKind::Retriable => ("([", "])"),
        };
        // Writing into a string never fails.
        let _ = writeln!(drawn, "    s{at}{open}\"{} ({by})\"{close}", step.name);
        if at > 0 {
            let _ = writeln!(drawn, "    s{} --> s{at}", at - 1);
        }
    }
    drawn
}

async fn list_timers(
    State(api): State<Arc<Api>>,
    OriginalUri(uri): OriginalUri,
) -> Result<Json<TimerList>, Problem> {
    let timers = api.lists.timers(limit(&uri)?).await?;
    let items = timers.into_iter().map(|timer| TimerItem {
        saga: timer.saga_id,
        business_key: timer.business_key,
        workflow: format!("{}@{}", timer.workflow, timer.workflow_version),
        label: timer.label,
        step: timer.step,
        at: instant(timer.wake_at),
    });
    Ok(Json(TimerList { items: items.collect() }))
}

async fn list_orphans(
    State(api): State<Arc<Api>>,
    OriginalUri(uri): OriginalUri,
) -> Result<Json<OrphanList>, Problem> {
    let strays = api.lists.strays(limit(&uri)?).await?;
    let items = strays.into_iter().map(|stray| {
        // A reply that cannot be read is shown as far as possible.
        let reply: Value = serde_json::from_str(&stray.reply).unwrap_or_default();
        let text = |field: &str| reply[field].as_str().map(str::to_owned);
        OrphanItem {
            saga: stray.saga_id,
            command_id: stray.command_id,
            received_at: instant(stray.received_at),
            step: text("step"),
            kind: text("kind"),
            outcome: text("outcome"),
            holds: serde_json::from_value(reply["exposure"].clone()).unwrap_or_default(),
        }
    });
    Ok(Json(OrphanList { items: items.collect() }))
}

fn limit(uri: &Uri) -> Result<u32, Problem> {
    let given = query::read(uri, &[Parameter::Once(LIMIT)])?;
    let Some((_, text)) = given.first() else { return Ok(PAGE_USUAL) };
    match text.parse() {
        Ok(limit @ 1..=LARGEST_PAGE) => Ok(limit),
        _ => Err(Problem::Invalid(vec![Fault::parameter(LIMIT, format!("must be 1-{LARGEST_PAGE}"))])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workflow_is_drawn_step_by_step() {
        let all = amends_workflows::catalog(amends_workflows::Settings::default());
        let drawn = diagram(all.get("order_fulfilment", 1).unwrap());
        assert!(drawn.starts_with("flowchart LR\n    s0[\"reserve (inventory)\"]\n"), "{drawn}");
        assert!(drawn.contains("s0 --> s1") && drawn.contains("([\"take (inventory)\"])"), "{drawn}");
    }

    #[test]
    fn a_limit_outside_of_its_range_is_refused() {
        let of = |query: &str| limit(&format!("/admin/timers{query}").parse().unwrap());
        assert_eq!((of("").unwrap(), of("?limit=500").unwrap()), (50, 500));
        for bad in ["?limit=0", "?limit=501", "?limit=x", "?limit=1&limit=1", "?colour=red"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
