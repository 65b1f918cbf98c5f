//! `GET /admin/failures`: parked and stuck sagas, grouped by what they have in common.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use amends_engine::{
    core::Saga,
    operate::{Fingerprint, fingerprint},
};
use amends_http::query;
use amends_postgres::overviews::StandingStill;
use amends_protocol::{Exposure, add_exposure};
use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode},
    middleware::from_fn,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    auth::{
        Right,
        access::{Access, Routes},
    },
    http::openapi::{
        Answer, Operation,
        schema::{Holding, Instant},
    },
    orders::view::instant,
    problem::{Problem, problem_types},
    state::Api,
};

/// Number of digits of a group's id.
const ID_DIGITS: usize = 16;

pub fn routes() -> Routes<Arc<Api>> {
    let operation = Operation::new("listFailures", "List parked and stuck sagas by what they have in common")
        .about("The newest 5,000 of each are grouped: `complete` says whether these are all.")
        .answer(Answer::json::<FailureList>(StatusCode::OK, "The groups, the largest first.").link(
            "explainSaga",
            "id",
            "$response.body#/items/0/example",
        ))
        .problems(&[problem_types::BUSY]);
    Routes::default()
        .on(Method::GET, "/admin/failures", Access::Needs(Right::ReadSagas), list, operation)
        .each(|routes| routes.route_layer(from_fn(query::none)))
}

/// Groups of sagas that stand still.
#[derive(Debug, Serialize, ToSchema)]
struct FailureList {
    items: Vec<FailureGroup>,
    /// Whether every saga that stands still is in a group.
    complete: bool,
}

/// Sagas that stand still at the same step for the same reason.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct FailureGroup {
    /// The id of what they have in common.
    fingerprint: String,
    /// The name of their workflow.
    workflow: String,
    step: String,
    /// The code of their reason; `stuck` if they are not parked.
    reason: String,
    /// The text of their reason, in which `#` stands for ids and numbers.
    text: String,
    count: usize,
    /// The money that they certainly hold.
    #[schema(value_type = Vec<Holding>)]
    money: Vec<Exposure>,
    /// Since when the first of them is at its step, and since when the last.
    #[schema(value_type = Instant)]
    first_seen: String,
    #[schema(value_type = Instant)]
    last_seen: String,
    /// The newest of them.
    example: Uuid,
}

/// What is known of a group while it is gathered.
#[derive(Debug, Default)]
struct Gathered {
    count: usize,
    money: Vec<Exposure>,
    since: Option<(DateTime<Utc>, DateTime<Utc>)>,
    example: Uuid,
}

async fn list(State(api): State<Arc<Api>>) -> Result<Json<FailureList>, Problem> {
    let StandingStill { sagas, is_complete } = api.lists.standing_still().await?;
    // Thousands of rows take milliseconds, in which this thread would serve no order.
    let items = spawn_blocking(move || groups(&sagas)).await.map_err(|_| Problem::Internal)?;
    Ok(Json(FailureList { items, complete: is_complete }))
}

fn groups(sagas: &[Saga]) -> Vec<FailureGroup> {
    let mut groups: BTreeMap<Fingerprint, Gathered> = BTreeMap::new();
    for saga in sagas {
        let group = groups.entry(fingerprint(saga)).or_default();
        group.count += 1;
        for command in &saga.state.commands {
            let money: Vec<Exposure> =
                command.held.iter().filter(|held| held.kind.starts_with("money")).cloned().collect();
            add_exposure(&mut group.money, &money);
        }
        let (first, last) = group.since.unwrap_or((saga.since, saga.since));
        group.since = Some((first.min(saga.since), last.max(saga.since)));
        group.example = group.example.max(saga.id);
    }
    let mut items: Vec<FailureGroup> = groups.into_iter().map(|(of, group)| shown(of, group)).collect();
    items.sort_by_key(|group| Reverse(group.count));
    items
}

fn shown(of: Fingerprint, group: Gathered) -> FailureGroup {
    let Fingerprint { workflow, step, reason, text } = of;
    let id = hex::encode(Sha256::digest([&*workflow, &*step, &*reason, &*text].join("\n")));
    let (first, last) = group.since.unwrap_or_default();
    FailureGroup {
        fingerprint: id[..ID_DIGITS].to_owned(),
        workflow,
        step,
        reason,
        text,
        count: group.count,
        money: group.money,
        first_seen: instant(first),
        last_seen: instant(last),
        example: group.example,
    }
}
