//! An operator: reads the parked sagas, and settles them over `/admin`, with a reason each time.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{client::Client, record::Record};
use crate::books::Action;

const PAUSE: Duration = Duration::from_secs(1);
/// Number of retries of one saga before the operator asks the other side.
const RETRIES: u32 = 1;

/// Parked sagas by reason, and the actions taken.
#[derive(Debug, Default)]
pub struct Seen {
    /// Sagas found parked, by reason.
    pub parked: BTreeMap<String, u64>,
    /// Actions done, by name.
    pub done: BTreeMap<String, u64>,
}

/// Settles parked sagas until stopped.
pub async fn work(client: Client, record: Record, stop: CancellationToken) -> Seen {
    let (mut seen, mut retried) = (Seen::default(), BTreeMap::<Uuid, u32>::new());
    let mut count = 0_u64;
    while !stop.is_cancelled() {
        for (saga, reason) in parked(&client).await {
            let tries = retried.entry(saga).or_default();
            if *tries == 0 {
                *seen.parked.entry(reason.clone()).or_default() += 1;
            }
            count += 1;
            let why = format!("campaign action {count}");
            // It may have changed since the list was read.
            let Some(page) = look(&client, saga).await else { continue };
            let (path, action, body) = choice(saga, &page, *tries, &why);
            *tries += 1;
            let answer = client.act(&format!("/admin/sagas/{saga}/{path}"), &body).await;
            let status = answer.as_ref().map(|a| a.status);
            match status {
                Some(200) => *seen.done.entry(path.to_owned()).or_default() += 1,
                // It changed meanwhile, or the result is unknown.
                Some(409 | 503) | None => {}
                Some(other) => {
                    let body = answer.map(|a| a.body).unwrap_or_default();
                    record.odd(format!("{path} of a saga parked for {reason} was answered {other}: {body}"));
                }
            }
            if matches!(status, Some(200 | 503) | None) {
                record.acted(Action { saga, action, why, sure: status == Some(200) });
            }
        }
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = stop.cancelled() => {}
        }
    }
    seen
}

async fn parked(client: &Client) -> Vec<(Uuid, String)> {
    let Some(answer) = client.get("/admin/sagas?state=parked&limit=500").await else { return Vec::new() };
    let items = answer.body["items"].as_array().cloned().unwrap_or_default();
    let each = |item: &Value| {
        let reason = item["reason"].as_str().unwrap_or("none").to_owned();
        Some((item["id"].as_str()?.parse().ok()?, reason))
    };
    items.iter().filter_map(each).collect()
}

/// The state of a parked saga that an operator sees, and names in an action.
struct Look {
    revision: Value,
    /// `None` if the saga is poisoned.
    command_id: Option<Value>,
    /// Whether an execute with an unknown outcome is parked.
    unknown: bool,
}

async fn look(client: &Client, saga: Uuid) -> Option<Look> {
    let body = client.get(&format!("/admin/sagas/{saga}")).await?.body;
    let poisoned = body["reason"] == "poisoned";
    let parked = body["waitsFor"].as_array()?.iter().rfind(|wait| !wait["parked"].is_null());
    let parked = parked.filter(|_| !poisoned);
    Some(Look {
        revision: body["revision"].clone(),
        command_id: parked.map(|wait| wait["commandId"].clone()),
        unknown: parked.is_some_and(|w| w["command"] == "execute" && w["parked"] == "outcome_unknown"),
    })
}

/// Chooses an action: first a retry; then the operator asks the other side, and every other carrier says that the
/// parcel was shipped.
fn choice(saga: Uuid, seen: &Look, tries: u32, why: &str) -> (&'static str, &'static str, Value) {
    let mut body = json!({ "reason": why, "revision": seen.revision });
    if let Some(command) = &seen.command_id {
        body["commandId"] = command.clone();
    }
    if tries < RETRIES || seen.command_id.is_none() {
        return ("retry", "retry_requested", body);
    }
    let not_done = seen.unknown && saga.as_u128().is_multiple_of(2);
    body["outcome"] = if not_done { "notDone" } else { "done" }.into();
    body["reference"] = format!("REF-{}", saga.simple()).into();
    ("resolve", "resolved", body)
}
