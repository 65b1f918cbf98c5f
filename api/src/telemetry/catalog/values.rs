//! The values of labels, each from where the program has them: workflows, services, the protocol's words.

use amends_engine::port::{Deferral, OddReason};
use amends_notification::Channel;
use amends_protocol::{Kind, Outcome};
use amends_workflows::{Workflows, order_fulfilment};

use super::LabelValues::{self, Each, OwnWorker, SomeOf};
use crate::{
    auth::refusal::Refusal, http::latency::STATUS_CLASSES, process, roles::engine::ENGINE_GROUP, services,
    topics,
};

pub(super) const DATABASE: (&str, LabelValues) = ("database", SomeOf(databases));
pub(super) const KIND: (&str, LabelValues) = ("kind", Each(kinds));
pub(super) const OUTCOME: (&str, LabelValues) = ("outcome", Each(outcomes));
pub(super) const PARTICIPANT: (&str, LabelValues) = ("participant", Each(participants));
pub(super) const POOL: (&str, LabelValues) = ("pool", SomeOf(pools));
pub(super) const STATUS: (&str, LabelValues) = ("status", Each(statuses));
pub(super) const WHY: (&str, LabelValues) = ("why", Each(deferrals));
pub(super) const WORKER: (&str, LabelValues) = ("worker", OwnWorker);
pub(super) const WORKFLOW: (&str, LabelValues) = ("workflow", Each(workflows));

/// The state of sagas that have not ended.
pub(super) const OPEN_STATE: (&str, LabelValues) =
    ("state", Each(|| owned(&["running", "compensating", "parked"])));

fn all() -> Workflows {
    amends_workflows::all(&amends_workflows::Settings::default())
}

pub(super) fn workflows() -> Vec<String> {
    all().names().into_iter().map(str::to_owned).collect()
}

pub(super) fn participants() -> Vec<String> {
    all().participants().into_iter().map(str::to_owned).collect()
}

pub(super) fn steps() -> Vec<String> {
    let catalog = all().catalog();
    let steps = catalog.iter().flat_map(|definition| &definition.steps);
    let mut names: Vec<_> =
        steps.filter(|step| step.signal.is_none()).map(|step| step.name.to_owned()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

pub(super) fn statuses() -> Vec<String> {
    owned(&order_fulfilment::STATUSES)
}

pub(super) fn status_classes() -> Vec<String> {
    owned(&STATUS_CLASSES)
}

pub(super) fn kinds() -> Vec<String> {
    owned(&Kind::ALL.map(Kind::as_str))
}

pub(super) fn outcomes() -> Vec<String> {
    owned(&Outcome::ALL.map(Outcome::as_str))
}

pub(super) fn deferrals() -> Vec<String> {
    owned(&Deferral::ALL.map(Deferral::as_str))
}

pub(super) fn odd_reasons() -> Vec<String> {
    owned(&OddReason::ALL.map(OddReason::as_str))
}

pub(super) fn channels() -> Vec<String> {
    owned(&Channel::ALL.map(Channel::as_str))
}

pub(super) fn databases() -> Vec<String> {
    owned(&services::names())
}

pub(super) fn groups() -> Vec<String> {
    let engine = ENGINE_GROUP.to_owned();
    services::workers().map(|service| process::group(service.name)).chain([engine]).collect()
}

pub(super) fn topics_read() -> Vec<String> {
    let events = services::workers().flat_map(|service| service.reads.iter().map(|&topic| topic.to_owned()));
    let commands = participants().into_iter().map(|name| format!("{name}.commands"));
    commands.chain([topics::REPLIES.to_owned()]).chain(events).collect()
}

pub(super) fn token_outcomes() -> Vec<String> {
    let refusals = Refusal::ALL.map(Refusal::label);
    owned(&[&refusals[..], &["accepted", "missing", "keys_away"]].concat())
}

pub(super) fn upstreams() -> Vec<String> {
    services::listening().map(|service| service.name.to_owned()).collect()
}

pub(super) fn pools() -> Vec<String> {
    let own = services::names().into_iter().map(|name| format!("amends-{name}"));
    let further = ["api", "api-answers", "api-lists", "api-order-lists", "api-products", "api-webhooks"];
    let of_others = ["engine-upkeep", "engine-webhooks", "inventory-http", "notification-http"];
    own.chain(further.into_iter().chain(of_others).map(|name| format!("amends-{name}"))).collect()
}

pub(super) fn pieces() -> Vec<String> {
    owned(&[
        "count of lost commits",
        "count of notifications",
        "count of webhooks' deliveries",
        "counts",
        "expiry of a worker's books",
        "expiry of answers",
        "expiry of idempotency keys",
        "expiry of notifications",
        "expiry of webhooks' deliveries",
        "expiry of worker rows",
        "history of orders",
        "history of sagas",
        "history of strays",
        "marking the stuck",
        "money held",
        "partitions",
        "partitions of worker rows",
        "statistics of the database",
        "sweep for missed wake-ups",
        "topics",
    ])
}

pub(super) fn owned(values: &[&str]) -> Vec<String> {
    values.iter().map(|&value| value.to_owned()).collect()
}
