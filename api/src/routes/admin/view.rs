//! Sagas as shown to operators.

use amends_engine::{
    core::{Definition, Direction, Entry, Event, Input, Saga},
    operate::{Action, actions},
};
use amends_postgres::{
    admin::{Detail, Listed},
    odd_replies::OddRow,
};
use amends_protocol::{Exposure, Kind, Outcome, id};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    auth::{Caller, Right},
    http::openapi::schema::{Holding, Instant},
    lists::{self, COUNTED_MOST},
    orders::{timeline::Item, view::instant},
};

/// A page of sagas.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SagaList {
    items: Vec<SagaListItem>,
    /// The `after` of the next page; null on the last one.
    #[schema(required)]
    next: Option<Uuid>,
    /// The number of sagas of the whole list, if it was asked for: `0`–`1000`, or `1000+`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    count: Option<String>,
}

/// A saga in a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SagaListItem {
    id: Uuid,
    /// The id of the order.
    business_key: String,
    /// Name and version.
    workflow: String,
    /// `running`, `compensating`, `parked`, `completed` or `undone`.
    state: &'static str,
    /// The status of the order.
    label: String,
    step: String,
    /// Why it is parked, or has failed.
    #[schema(required)]
    reason: Option<String>,
    /// Since when it is at its step.
    #[schema(value_type = Instant)]
    since: String,
    /// Whether it is there for longer than expected.
    stuck: bool,
}

/// A saga: what it waits for, what it holds, what can be done.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Saga)]
#[serde(rename_all = "camelCase")]
pub(super) struct SagaView {
    id: Uuid,
    /// The id of the order.
    business_key: String,
    /// Name and version.
    workflow: String,
    /// `running`, `compensating`, `parked`, `completed` or `undone`.
    state: &'static str,
    /// The status of the order.
    label: String,
    /// The status that the order will have once it is undone.
    #[schema(required)]
    heading_for: Option<String>,
    step: String,
    /// Why it is parked, or has failed.
    #[schema(required)]
    reason: Option<String>,
    #[schema(required)]
    reason_text: Option<String>,
    /// Since when it is at its step.
    #[schema(value_type = Instant)]
    since: String,
    /// Whether it is there for longer than expected.
    stuck: bool,
    /// The id of its trace: that of the `traceparent` of the request that it was born of, or of the trace that was begun
    /// then. Otherwise its own id, without hyphens.
    trace_id: String,
    /// It grows with every change. An action names the revision that the operator saw.
    revision: u32,
    #[schema(value_type = Instant)]
    created_at: String,
    #[schema(value_type = Instant)]
    updated_at: String,
    /// When it is cancelled by itself.
    #[schema(required, format = DateTime)]
    cancels_at: Option<String>,
    waits_for: Vec<Wait>,
    #[schema(required)]
    last_answer: Option<LastAnswer>,
    /// Replies that changed nothing, by reason.
    odd_replies: Vec<OddReplies>,
    holds: Holdings,
    timeline: Vec<Item>,
    /// The actions that are possible now, for the caller.
    actions: Vec<&'static str>,
}

/// What a saga waits for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Wait {
    Command(CommandWait),
    Signal(SignalWait),
}

/// An event from outside that a saga waits for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SignalWait {
    /// Its name.
    signal: String,
    #[schema(value_type = Instant)]
    since: String,
    #[schema(required, format = DateTime)]
    deadline: Option<String>,
}

/// A command that a saga waits for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CommandWait {
    step: &'static str,
    /// `execute` or `compensate`.
    command: &'static str,
    command_id: Uuid,
    attempt: u32,
    #[schema(value_type = Instant)]
    since: String,
    #[schema(required, format = DateTime)]
    next_look_at: Option<String>,
    #[schema(required, format = DateTime)]
    parks_at: Option<String>,
    /// Why it is parked.
    #[schema(required)]
    parked: Option<String>,
}

/// The last answer of a worker.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct LastAnswer {
    command_id: Uuid,
    step: String,
    #[schema(value_type = String)]
    kind: Kind,
    #[schema(value_type = String)]
    outcome: Outcome,
    attempt: u32,
    #[schema(value_type = Instant)]
    received_at: String,
}

/// Replies that were ignored or dead-lettered for one reason.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OddReplies {
    reason: String,
    count: i64,
    #[schema(value_type = Instant)]
    first_at: String,
    #[schema(value_type = Instant)]
    last_at: String,
    /// Whether they are on the dead letter topic.
    dead_lettered: bool,
    last: OddReply,
}

/// A reply that changed nothing.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OddReply {
    #[schema(required)]
    command_id: Option<Uuid>,
    #[schema(required)]
    step: Option<String>,
    #[schema(required)]
    kind: Option<String>,
    #[schema(required)]
    outcome: Option<String>,
    #[schema(required)]
    attempt: Option<i32>,
    topic: String,
    partition: i32,
    offset: i64,
}

/// What a saga holds in the outside world.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Holdings {
    #[schema(value_type = Vec<Holding>)]
    certain: Vec<Exposure>,
    /// What it may hold, if commands without an answer have taken effect.
    #[schema(value_type = Vec<Holding>)]
    possible: Vec<Exposure>,
    /// What it holds beyond what its workflow allows.
    #[schema(value_type = Vec<Holding>)]
    beyond: Vec<Exposure>,
}

impl SagaList {
    /// Renders a page.
    pub(super) fn of(lists::Listed { page, count }: &lists::Listed) -> Self {
        let items = page.items.iter().map(SagaListItem::from).collect();
        let count = count.map(|count| match count {
            exact @ 0..=COUNTED_MOST => exact.to_string(),
            _ => format!("{COUNTED_MOST}+"),
        });
        Self { items, next: page.next, count }
    }
}

impl From<&Listed> for SagaListItem {
    fn from(row: &Listed) -> Self {
        Self {
            id: row.id,
            business_key: row.business_key.clone(),
            workflow: format!("{}@{}", row.workflow, row.workflow_version),
            state: row.state.as_str(),
            label: row.label.clone(),
            step: row.step.clone(),
            reason: row.reason.as_ref().map(|r| r.code.clone()),
            since: instant(row.since),
            stuck: row.stuck_at.is_some(),
        }
    }
}

impl SagaView {
    /// Renders a saga for an operator.
    pub(super) fn of(detail: &Detail, definition: Option<&Definition>, caller: &Caller) -> Self {
        let saga = &detail.saga;
        let reason = if saga.parked { saga.parked_reason() } else { saga.reason.as_ref() };
        Self {
            id: saga.id,
            business_key: saga.business_key.clone(),
            workflow: format!("{}@{}", saga.workflow, saga.workflow_version),
            state: saga.state().as_str(),
            label: saga.label.clone(),
            heading_for: saga.heading_for.clone(),
            step: saga.step.clone(),
            reason: reason.map(|r| r.code.clone()),
            reason_text: reason.map(|r| r.text.clone()).filter(|t| !t.is_empty()),
            since: instant(saga.since),
            stuck: detail.stuck_at.is_some(),
            trace_id: saga.trace().trace_id_hex(),
            revision: saga.revision,
            created_at: instant(saga.born_at),
            updated_at: instant(detail.updated_at),
            cancels_at: saga.state.timeout_at.map(instant),
            waits_for: definition.map(|d| waits_for(saga, d)).unwrap_or_default(),
            last_answer: last_answer(&detail.timeline),
            odd_replies: detail.odd_replies.iter().map(OddReplies::from).collect(),
            holds: Holdings::of(detail, definition),
            timeline: detail.timeline.iter().map(Item::from).collect(),
            actions: definition.map(|d| legal(detail, d, caller)).unwrap_or_default(),
        }
    }
}

impl Holdings {
    /// Computes what a saga holds. Nothing is known of a workflow that this program does not know.
    pub(super) fn of(Detail { saga, inputs, .. }: &Detail, definition: Option<&Definition>) -> Self {
        let input = Input { data: &inputs.data, personal: None };
        let (certain, possible) = definition.map(|d| saga.holds(d, input)).unwrap_or_default();
        let beyond = definition.map(|d| saga.holds_beyond(d, input)).unwrap_or_default();
        Self { certain, possible, beyond }
    }
}

/// Returns what the saga waits for: a reply, a timer, or an operator.
pub(super) fn waits_for(saga: &Saga, definition: &Definition) -> Vec<Wait> {
    let mut waits = Vec::new();
    if let Some((signal, since)) = saga.awaited(definition) {
        let deadline = saga.state.commands.iter().rev().find(|c| definition.steps[c.step].name == signal);
        let deadline = deadline.and_then(|command| command.due_at).map(instant);
        waits.push(Wait::Signal(SignalWait { signal: signal.to_owned(), since: instant(since), deadline }));
    }
    for command in &saga.state.commands {
        let (step, execute) = (definition.steps[command.step].name, command.id(saga.id, definition));
        match &command.undo {
            Some(undo) if !undo.done => waits.push(Wait::Command(CommandWait {
                step,
                command: "compensate",
                command_id: id::undo(execute),
                attempt: undo.attempt,
                since: instant(undo.issued_at),
                next_look_at: undo.due_at.map(instant),
                parks_at: undo.parks_at.map(instant),
                parked: undo.parked.as_ref().map(|r| r.code.clone()),
            })),
            None if saga.state.direction == Direction::Forward
                && (command.status.is_open() || command.parked.is_some()) =>
            {
                waits.push(Wait::Command(CommandWait {
                    step,
                    command: "execute",
                    command_id: execute,
                    attempt: command.attempt,
                    since: instant(command.sent_at.unwrap_or(command.issued_at)),
                    next_look_at: command.due_at.map(instant),
                    parks_at: command.parks_at.map(instant),
                    parked: command.parked.as_ref().map(|r| r.code.clone()),
                }));
            }
            _ => {}
        }
    }
    waits
}

/// Returns the last answer in the timeline, and when the engine processed it.
fn last_answer(timeline: &[Entry]) -> Option<LastAnswer> {
    timeline.iter().rev().find_map(|entry| match &entry.occurrence.event {
        Event::Replied(reply) => Some(LastAnswer {
            command_id: reply.command_id,
            step: reply.step.clone(),
            kind: reply.kind,
            outcome: reply.outcome,
            attempt: reply.attempt,
            received_at: instant(entry.occurrence.at),
        }),
        _ => None,
    })
}

impl From<&OddRow> for OddReplies {
    fn from(row: &OddRow) -> Self {
        Self {
            reason: row.reason.clone(),
            count: row.count,
            first_at: instant(row.first_at),
            last_at: instant(row.last_at),
            dead_lettered: row.dead_lettered,
            last: OddReply {
                command_id: row.command_id,
                step: row.step.clone(),
                kind: row.kind.clone(),
                outcome: row.outcome.clone(),
                attempt: row.attempt,
                topic: row.topic.clone(),
                partition: row.partition,
                offset: row.offset,
            },
        }
    }
}

/// Returns the actions that are legal now: those that the core would accept from the caller.
fn legal(detail: &Detail, definition: &Definition, caller: &Caller) -> Vec<&'static str> {
    if !caller.may(Right::ActOnSagas) {
        return Vec::new();
    }
    let possible = actions(&detail.saga, definition, detail.now).into_iter();
    possible.filter(Action::is_legal).map(|action| action.name).collect()
}
