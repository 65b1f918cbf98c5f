//! Read from the topics that orders go by: a consumer group of the load's own.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use amends_api::topics::REPLIES;
use amends_kafka::{KafkaSettings, KafkaSource};
use amends_protocol::{Kind, Outcome, transport::Source};
use anyhow::Result;
use serde::Deserialize;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::load::ledger::Ledger;

const COMMANDS: &str = "inventory.commands";
const BATCH: usize = 500;
const PATIENCE: Duration = Duration::from_millis(100);

/// The fields of a command or a reply that are needed here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seen<'a> {
    kind: Kind,
    saga_id: Uuid,
    /// A command's fields.
    #[serde(borrow, default)]
    business_key: Option<&'a str>,
    #[serde(borrow)]
    step: &'a str,
    /// A reply's fields.
    #[serde(default)]
    outcome: Option<Outcome>,
}

/// Sagas that may have to be undone, and their orders.
#[derive(Default)]
struct Reading {
    undo: bool,
    orders: HashMap<Uuid, Uuid>,
    /// Released before the reservation was seen: partitions are not read in order of time.
    released: HashSet<Uuid>,
}

impl Reading {
    /// Returns the order that has ended with this message.
    fn ended(&mut self, topic: &str, bytes: &[u8]) -> Option<Uuid> {
        let seen: Seen<'_> = serde_json::from_slice(bytes).ok()?;
        if topic == COMMANDS {
            let order = || Uuid::try_parse(seen.business_key?).ok();
            match (seen.kind, seen.step) {
                (Kind::Execute, "take") => {
                    self.orders.remove(&seen.saga_id);
                    order()
                }
                (Kind::Execute, "reserve") if self.undo => match self.released.remove(&seen.saga_id) {
                    true => order(),
                    false => {
                        self.orders.insert(seen.saga_id, order()?);
                        None
                    }
                },
                _ => None,
            }
        } else {
            // What was reserved first is released last.
            let released = seen.kind == Kind::Compensate
                && seen.step == "reserve"
                && seen.outcome == Some(Outcome::Succeeded);
            let order = if released { self.orders.remove(&seen.saga_id) } else { None };
            if released && order.is_none() {
                self.released.insert(seen.saga_id);
            }
            order
        }
    }
}

/// Reads until it is aborted. `undo`: whether any order will be undone; else the replies need not be read.
pub fn read(kafka: &KafkaSettings, undo: bool, ledger: Arc<Ledger>) -> Result<JoinHandle<()>> {
    let topics: &[&str] = if undo { &[COMMANDS, REPLIES] } else { &[COMMANDS] };
    let mut source = KafkaSource::subscribe(kafka, "amends-bench-load", topics)?;
    Ok(tokio::spawn(async move {
        let mut reading = Reading { undo, ..Reading::default() };
        loop {
            let Ok(batch) = source.receive(BATCH, PATIENCE).await else { continue };
            let now = Instant::now();
            let ended = batch.messages.iter().filter_map(|m| reading.ended(&m.topic, &m.bytes));
            ledger.end(ended, now);
            let _ = source.commit(batch.receipt);
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fulfilled_order_ends_with_its_take_and_an_undone_one_with_its_release() {
        let (saga, order) = (Uuid::now_v7(), Uuid::now_v7());
        let command = |kind: &str, step: &str| {
            format!(
                r#"{{"kind":"{kind}","sagaId":"{saga}","slot":7,"businessKey":"{order}","step":"{step}","payload":{{}}}}"#
            )
        };
        let reply = |kind: &str, step: &str, outcome: &str| {
            format!(r#"{{"kind":"{kind}","sagaId":"{saga}","step":"{step}","outcome":"{outcome}"}}"#)
        };
        let mut reading = Reading { undo: true, ..Reading::default() };
        assert_eq!(reading.ended(COMMANDS, command("execute", "reserve").as_bytes()), None);
        assert_eq!(reading.ended(REPLIES, reply("execute", "reserve", "succeeded").as_bytes()), None);
        assert_eq!(reading.ended(REPLIES, reply("compensate", "pay", "succeeded").as_bytes()), None);
        let mut undone = Reading { undo: true, orders: reading.orders.clone(), ..Reading::default() };
        assert_eq!(undone.ended(REPLIES, reply("compensate", "reserve", "in_flight").as_bytes()), None);
        let released = reply("compensate", "reserve", "succeeded");
        assert_eq!(undone.ended(REPLIES, released.as_bytes()), Some(order));
        assert_eq!(undone.ended(REPLIES, released.as_bytes()), None, "told twice");
        assert_eq!(reading.ended(COMMANDS, command("execute", "take").as_bytes()), Some(order));
        assert!(reading.orders.is_empty());
    }
}
