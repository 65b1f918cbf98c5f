//! The spans of the engine, and the contexts of its commands.

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use amends_engine::{
    core::{Actor, Event, NewSaga, replay},
    runtime::{apply::apply, replies, timers::Timers},
};
use amends_protocol::{
    Outcome,
    trace::{self, Recorder, Span, SpanId, SpanKind, TraceContext},
};
use support::{
    stay,
    world::{TestEngine, World, block_on},
};

/// All spans of this test process, by trace.
static SPANS: Mutex<BTreeMap<[u8; 16], Vec<Span>>> = Mutex::new(BTreeMap::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

struct Kept;

impl Recorder for Kept {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn span_id(&self) -> SpanId {
        NEXT_ID.fetch_add(1, Ordering::Relaxed).to_be_bytes()
    }

    fn root(&self) -> TraceContext {
        let id = u128::from(NEXT_ID.fetch_add(1, Ordering::Relaxed)) << 64;
        TraceContext::new(id.to_be_bytes(), self.span_id(), true)
    }

    fn record(&self, span: Span) {
        SPANS.lock().unwrap().entry(span.context.trace_id()).or_default().push(span);
    }
}

/// Returns a new trace of this process.
fn request() -> TraceContext {
    trace::install(Box::new(Kept));
    trace::begin_root("api", "POST", SpanKind::Server).unwrap().context()
}

/// Returns the spans of a trace as `name < name of the parent`, in the order of their ends.
fn spans(root: TraceContext) -> Vec<String> {
    let all = SPANS.lock().unwrap();
    let spans = all.get(&root.trace_id()).cloned().unwrap_or_default();
    let name = |id: Option<SpanId>| match spans.iter().find(|span| Some(span.context.span_id()) == id) {
        Some(span) => span.name.to_string(),
        None if id == Some(root.span_id()) => "request".to_owned(),
        None => "?".to_owned(),
    };
    spans.iter().map(|span| format!("{} < {}", span.name, name(span.parent))).collect()
}

fn last_sent(world: &World) -> TraceContext {
    world.state().traceparents.last().unwrap().parse().unwrap()
}

/// A worker answers the command that was sent last, and repeats its context.
fn answered(world: &World, engine: &TestEngine, saga: uuid::Uuid, step: &str, outcome: Outcome) {
    let context = last_sent(world).to_string();
    world.state().replies_trace = Some(context);
    world.answers(saga, step, outcome);
    block_on(replies::run_once(engine, &mut world.clone())).unwrap();
}

#[test]
fn a_command_is_below_the_reply_that_it_follows_from_and_all_are_in_the_trace_of_the_birth() {
    let (root, (world, engine)) = (request(), World::new());
    let saga = world.born_of(0, Some(root));
    // The engine learns which slots it owns.
    block_on(replies::run_once(&engine, &mut world.clone())).unwrap();
    world.passes(6);
    block_on(Timers::default().run_once(&engine)).unwrap();
    assert_eq!(spans(root), ["send hotel.commands < wake saga", "wake saga < request"]);
    answered(&world, &engine, saga, "book", Outcome::Succeeded);
    answered(&world, &engine, saga, "charge", Outcome::Refused);
    assert_eq!(
        spans(root)[2..],
        [
            "send hotel.commands < process saga.replies",
            "process saga.replies < send hotel.commands",
            "send hotel.commands < process saga.replies",
            "process saga.replies < send hotel.commands",
        ]
    );
    assert!(world.state().traceparents.iter().all(|sent| sent.contains(&root.trace_id_hex())));
}

#[test]
fn what_an_operator_does_is_in_the_trace_of_the_saga_and_linked_to_the_request() {
    let (root, asking, (world, engine)) = (request(), request(), World::new());
    let saga = world.born_of(0, Some(root));
    let cancel = Event::CancelRequested(Actor::new("operator", ""));
    block_on(trace::scope(Some(asking), apply(&engine, saga, cancel))).unwrap();
    assert_eq!(spans(root), ["send hotel.commands < apply event", "apply event < request"]);
    let all = SPANS.lock().unwrap();
    let applied = all[&root.trace_id()].iter().find(|span| span.name == "apply event").unwrap();
    assert_eq!(applied.links, [asking]);
    assert_eq!(trace::current(), None);
}

#[test]
fn a_reply_that_names_another_trace_does_not_lead_the_saga_into_it() {
    let (root, other, (world, engine)) = (request(), request(), World::new());
    let saga = world.born_of(0, Some(root));
    world.state().replies_trace = Some(other.to_string());
    world.answers(saga, "book", Outcome::Succeeded);
    block_on(replies::run_once(&engine, &mut world.clone())).unwrap();
    assert_eq!(last_sent(&world).trace_id(), root.trace_id());
    assert_eq!(spans(root), ["send hotel.commands < request"]);
}

#[test]
fn a_saga_that_is_not_sampled_keeps_its_trace_id_and_records_nothing() {
    let (sampled, (world, engine)) = (request(), World::new());
    let root = TraceContext::new(sampled.trace_id(), sampled.span_id(), false);
    let traced = world.born_of(0, Some(root));
    let untraced = world.born(0);
    for saga in [traced, untraced] {
        world.answers(saga, "book", Outcome::Succeeded);
    }
    block_on(replies::run_once(&engine, &mut world.clone())).unwrap();
    let sent: Vec<TraceContext> =
        world.state().traceparents.iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|context| !context.is_sampled()));
    assert!(sent.iter().any(|context| context.trace_id() == root.trace_id()));
    assert!(sent.iter().any(|context| context.trace_id() == *untraced.as_bytes()));
    assert!(spans(root).is_empty());
}

#[test]
fn a_timeline_gives_the_saga_with_its_trace() {
    let (root, (world, _)) = (request(), World::new());
    let saga = world.born_of(0, Some(root));
    let (row, entries) = world.state().sagas[&saga].clone();
    let new = NewSaga { id: saga, business_key: row.business_key.clone(), trace: None };
    assert_eq!(replay(&stay(), new, &entries), Ok(row.clone()));
    assert_eq!(row.trace(), root);
    assert!(row.state.to_json().contains(&format!("\"trace\":\"{root}\"")));
}

#[test]
fn the_span_of_a_handling_has_the_id_of_the_page_of_the_protocol() {
    let sent: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    assert_eq!(sent.handling().to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-f128bb513e87d161-01");
}
