//! People: customers who order, repeat and cancel, and an operator who settles parked sagas.

mod operator;
mod returns;

use std::collections::BTreeMap;

use amends_engine::{
    core::{Actor, Event, NewSaga, Signal, start},
    port::Inputs,
    runtime::apply::Applied,
};
use amends_protocol::{Json, SLOTS, trace::TraceContext};
use amends_workflows::order_fulfilment::{self, Line, OrderInput, Personal};
use futures::future::{Either, select};
use rand::{RngExt, seq::IndexedRandom};
use returns::Afterwards;
use serde_json::json;
use uuid::Uuid;

use crate::{
    executor::{Micros, OneShot, SECOND},
    faults::{Fault, Rng, stream},
    processes::{REVIEW, REVIEWED, act, engine},
    store::{NewOrder, Placed, SimStore, short},
    world::{Control, Handle, OUTSIDE},
};

/// An order to be placed.
#[derive(Debug, Clone)]
pub struct PlannedOrder {
    /// Number of the order.
    pub number: usize,
    /// Time of the order.
    at: Micros,
    input: OrderInput,
    country: &'static str,
    /// Delays, after acceptance, at which it is cancelled.
    cancels: Vec<Micros>,
    repeats: bool,
    other_body: bool,
    /// If it is reviewed: the answers, and when each is given after acceptance.
    reviews: Option<Vec<(Micros, bool)>>,
    /// What happens once it is fulfilled.
    afterwards: Vec<Afterwards>,
}

/// What people know.
#[derive(Default)]
pub struct Clients {
    /// The orders to be placed.
    pub planned_orders: Vec<PlannedOrder>,
    /// Whether the operator comes only after the world has healed.
    pub holiday: bool,
    /// Orders answered with 201, by key.
    pub accepted: BTreeMap<String, Vec<Uuid>>,
    /// Orders whose cancellation was answered with 202.
    pub promised: Vec<Uuid>,
    /// Signals that were acknowledged: saga, name, payload.
    pub signalled: Vec<(Uuid, &'static str, String)>,
    /// Operator's actions that were answered: saga, word.
    pub acted: Vec<(Uuid, &'static str)>,
}

/// Products, and their quantities.
pub const PRODUCTS: [(&str, i64); 4] = [("mug", 60), ("cup", 12), ("pot", 3), ("tea", 100_000)];

const METHODS: [(&str, u32); 8] = [
    ("card_approved", 8),
    ("card_declined", 2),
    ("card_slow", 2),
    ("card_lost_reply", 2),
    ("card_error_twice", 2),
    ("card_refund_refused", 2),
    ("iou", 1),
    ("card_approved", 1),
];
const COUNTRIES: [(&str, u32); 4] = [("AT", 12), ("AQ", 3), ("BV", 2), ("DE", 3)];

fn weighted(rng: &mut Rng, from: &[(&'static str, u32)]) -> &'static str {
    from.choose_weighted(rng, |(_, weight)| *weight).map_or("", |(word, _)| *word)
}

/// Returns the orders of a seed's customers, each with its own random stream; `only` keeps some of them.
pub fn plan_orders(seed: u64, until: Micros, only: Option<&[usize]>) -> Vec<PlannedOrder> {
    let mut rng = stream(seed, 3);
    let count = rng.random_range(20..=28);
    let burst = rng.random_bool(0.3);
    let wanted = |n: &usize| only.is_none_or(|only| only.contains(n));
    (0..count).filter(wanted).map(|number| plan_order(seed, number, until, burst)).collect()
}

fn plan_order(seed: u64, number: usize, until: Micros, burst: bool) -> PlannedOrder {
    let mut rng = stream(seed, 1000 + number as u64);
    let lines = (0..rng.random_range(1..=2)).map(|_| {
        let product = match rng.random_range(0..40) {
            0 => "unheard-of",
            n => PRODUCTS[n % PRODUCTS.len()].0,
        };
        let (quantity, unit_price) = (rng.random_range(1..=3), rng.random_range(0..=40) * 50);
        Line { product_id: product.to_owned(), quantity, unit_price }
    });
    let lines: Vec<Line> = lines.collect();
    let input = OrderInput {
        customer_id: format!("c-{number}"),
        currency: if rng.random_bool(0.8) { "EUR" } else { "USD" }.to_owned(),
        total: lines.iter().map(|l| l.unit_price * l.quantity).sum(),
        lines,
        payment_method: weighted(&mut rng, &METHODS).to_owned(),
    };
    let cancels = match rng.random_range(0..8) {
        0 => vec![rng.random_range(0..SECOND)],
        1 => vec![rng.random_range(0..60 * SECOND)],
        2 => (0..3).map(|_| rng.random_range(0..2 * SECOND)).collect(),
        _ => Vec::new(),
    };
    let reviews = rng.random_bool(0.3).then(|| {
        let longest = [SECOND / 10, 20 * SECOND, 400 * SECOND][rng.random_range(0..3)];
        let count = rng.random_range(0..=3);
        (0..count).map(|_| (rng.random_range(0..longest), rng.random_bool(0.8))).collect()
    });
    let afterwards = returns::draw(&mut rng, &input);
    let spread = if burst { until / 20 } else { until };
    PlannedOrder {
        number,
        at: SECOND + rng.random_range(0..spread),
        input,
        country: weighted(&mut rng, &COUNTRIES),
        cancels,
        repeats: rng.random_bool(0.2),
        other_body: rng.random_bool(0.1),
        reviews,
        afterwards,
    }
}

/// Performs all actions of people.
pub async fn people(handle: Handle) {
    let planned_orders = handle.state().clients.planned_orders.clone();
    let mut state = handle.state();
    for planned in planned_orders {
        let h = handle.clone();
        state.control.push(Control::Spawn(OUTSIDE, Box::pin(customer(h, planned))));
    }
    let h = handle.clone();
    state.control.push(Control::Spawn(OUTSIDE, Box::pin(operator::operator(h))));
    drop(state);
}

/// Sends a request to one of the two doors; `None` if there was no answer in time, or no door.
async fn request<T, F, Fut>(handle: &Handle, work: F) -> Option<T>
where
    T: Send + 'static,
    F: FnOnce(Handle, OneShot<T>) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let slot: OneShot<T> = OneShot::default();
    {
        let mut state = handle.state();
        let door = 2 + state.rng.random_range(0..2);
        if !state.processes[door].alive {
            return None;
        }
        let at_door = Handle { world: handle.world.clone(), process: door };
        let work = Box::pin(work(at_door, slot.clone()));
        state.control.push(Control::Spawn(door, work));
    }
    let late = std::pin::pin!(handle.sleep(12 * SECOND));
    match select(slot, late).await {
        Either::Left((answer, _)) => Some(answer),
        Either::Right(_) => None,
    }
}

async fn customer(handle: Handle, planned: PlannedOrder) {
    handle.sleep(planned.at).await;
    let key = format!("key-{}", planned.number);
    let repeats = planned.repeats && handle.state().plan.rate(Fault::Repeat) > 0.0;
    if repeats {
        handle.state().plan.struck[Fault::Repeat as usize] += 1;
    }
    let mut order = None;
    let mut answers = 0;
    for attempt in 0..200_u32 {
        let body = u64::from(repeats && planned.other_body && attempt > 0 && order.is_some());
        let (w, k) = (planned.clone(), key.clone());
        let answer = request(&handle, move |door, answer| place(door, w, k, body, answer)).await;
        match answer {
            Some(Some(placed)) if body == 0 => {
                let mut state = handle.state();
                state.clients.accepted.entry(key.clone()).or_default().push(placed);
                order = Some(placed);
                answers += 1;
            }
            // Its key was forgotten, and the other body made another order.
            Some(Some(_)) if handle.state().losses.keys.contains(&key) => {}
            Some(Some(placed)) => {
                handle.state().violations.push(format!("keys: another body was answered {placed}"));
            }
            _ => {}
        }
        if order.is_some() && (!repeats || answers >= 2 || attempt > 20) {
            break;
        }
        handle.sleep(SECOND).await;
    }
    let Some(order) = order else { return };
    for (n, plan) in planned.afterwards.into_iter().enumerate() {
        let afterwards = returns::afterwards(handle.clone(), order, n as u64, plan);
        handle.state().control.push(Control::Spawn(OUTSIDE, Box::pin(afterwards)));
    }
    for (after, yes) in planned.reviews.into_iter().flatten() {
        let h = handle.clone();
        let review = async move {
            h.sleep(after).await;
            review(&h, order, yes).await;
        };
        handle.state().control.push(Control::Spawn(OUTSIDE, Box::pin(review)));
    }
    if handle.state().plan.rate(Fault::Cancel) == 0.0 {
        return;
    }
    for after in planned.cancels {
        let h = handle.clone();
        let cancel = async move {
            h.sleep(after).await;
            cancel(&h, order).await;
        };
        handle.state().control.push(Control::Spawn(OUTSIDE, Box::pin(cancel)));
    }
}

async fn place(door: Handle, planned: PlannedOrder, key: String, body: u64, answer: OneShot<Option<Uuid>>) {
    let order = {
        let mut state = door.state();
        let slot = state.rng.random_range(0..SLOTS);
        let [id, saga] = [state.uuid(), state.uuid()].map(|id| amends_protocol::id::at_slot(id, slot));
        let address = json!({
            "name": "N. N.", "line1": "Street 1", "city": "City", "postalCode": "1", "country": planned.country,
        });
        let contact = Some(json!({ "email": "n.n@street-1.example" }).into());
        let personal =
            Personal { shipping_address: address.into(), contact, locale: Some("de-AT".to_owned()) };
        let order = NewOrder {
            id,
            saga: NewSaga { id: saga, business_key: id.to_string(), trace: trace_of(saga) },
            key: (key, body),
            data: Json::of(&planned.input).unwrap_or_default(),
            personal: Json::of(&personal).unwrap_or_default(),
        };
        state.note(door.process, || {
            format!(
                "order {} {} {} to {}",
                planned.number,
                short(saga),
                planned.input.payment_method,
                planned.country
            )
        });
        order
    };
    let engine = engine(&door);
    // The newest version that this api knows, whether or not all engines know it.
    let name = if planned.reviews.is_some() { REVIEWED } else { order_fulfilment::NAME };
    let named = engine.catalog.iter().filter(|d| d.name == name);
    let Some(definition) = named.max_by_key(|d| d.version).cloned() else { return };
    let birth = move |order: &NewOrder, now| start(&definition, order.saga.clone(), &order.data, now);
    let (data, personal, saga_id) = (order.data.clone(), order.personal.clone(), order.saga.id);
    match SimStore(door.clone()).place(vec![order.clone()], birth).await.map(|mut placed| placed.pop()) {
        Ok(Some(Placed::New(change))) => {
            answer.fill(Some(order.id));
            let inputs = Inputs { saga_id, data, personal: Some(personal) };
            let _ = engine.send(vec![(change.saga, change.sends, inputs)]).await;
        }
        Ok(Some(Placed::Replayed(known))) => answer.fill(Some(known)),
        Ok(Some(Placed::KeyReused) | None) | Err(_) => answer.fill(None),
    }
}

async fn cancel(handle: &Handle, order: Uuid) {
    let Some(saga) = handle.state().store.orders.get(&order).copied() else { return };
    {
        let mut state = handle.state();
        state.plan.struck[Fault::Cancel as usize] += 1;
        state.meet_action(saga, "cancel");
    }
    let event = Event::CancelRequested(Actor::new("customer", ""));
    let answer = request(handle, move |door, answer| async move {
        answer.fill(matches!(act(&door, saga, event).await, Ok(Applied::Done(_))));
    });
    if answer.await == Some(true) {
        handle.state().clients.promised.push(saga);
    }
}

/// Delivers the signal that a saga waits for at its review.
async fn review(handle: &Handle, order: Uuid, yes: bool) {
    let Some(saga) = handle.state().store.orders.get(&order).copied() else { return };
    signal(handle, saga, REVIEW, Json::of(&yes).unwrap_or_default()).await;
}

/// Delivers a signal, again and again until there is an answer: the first one may have been lost.
async fn signal(handle: &Handle, saga: Uuid, name: &'static str, payload: Json) {
    for _ in 0..100 {
        handle.state().meet_action(saga, "signal");
        let signal =
            Signal { name: name.to_owned(), payload: payload.clone(), by: Actor::new("reviewer", "") };
        let answer = request(handle, move |door, answer| async move {
            answer.fill(act(&door, saga, Event::Signalled(signal)).await.ok());
        });
        match answer.await {
            Some(Some(Applied::Done(_))) => {
                let payload = payload.get().to_owned();
                return handle.state().clients.signalled.push((saga, name, payload));
            }
            Some(Some(Applied::Illegal(..) | Applied::Missing)) => return,
            Some(None) | None => handle.sleep(3 * SECOND).await,
        }
    }
}

/// Returns the context of the request that a saga is born of: every other client names one.
pub fn trace_of(saga: Uuid) -> Option<TraceContext> {
    let bytes = saga.as_u128();
    let is_sampled = bytes & (1 << 21) == 0;
    (bytes & (1 << 20) == 0)
        .then(|| TraceContext::new((!bytes).to_be_bytes(), (!saga.as_u64_pair().0).to_be_bytes(), is_sampled))
}
