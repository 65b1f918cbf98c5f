//! An operator: looks at what is parked, and settles it over `/admin`, with a reason each time.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{client::Client, record::Record};
use crate::books::Action;

const PAUSE: Duration = Duration::from_secs(1);
/// Retries of one saga before the operator asks the other side.
const RETRIES: u32 = 1;

/// How often sagas were parked, by reason; and what was done about it.
#[derive(Debug, Default)]
pub struct Seen {
    /// Sagas found parked, by reason.
    pub parked: BTreeMap<String, u64>,
    /// Actions done, by name.
    pub done: BTreeMap<String, u64>,
}

/// Settles what is parked until told to stop.
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
            let (path, action, body) = choice(saga, &reason, *tries, &why);
            *tries += 1;
            let answer = client.act(&format!("/admin/sagas/{saga}/{path}"), &body).await;
            let status = answer.as_ref().map(|a| a.status);
            match status {
                Some(200) => *seen.done.entry(path.to_owned()).or_default() += 1,
                // It moved meanwhile, or nobody can say.
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

/// First tries again. Then asks the other side: every other carrier says that the parcel went.
fn choice(saga: Uuid, reason: &str, tries: u32, why: &str) -> (&'static str, &'static str, Value) {
    if tries < RETRIES {
        return ("retry", "retry_requested", json!({ "reason": why }));
    }
    let not_done = reason == "outcome_unknown" && saga.as_u128().is_multiple_of(2);
    let outcome = if not_done { "notDone" } else { "done" };
    let body = json!({ "outcome": outcome, "reason": why, "reference": format!("REF-{}", saga.simple()) });
    ("resolve", "resolved", body)
}
