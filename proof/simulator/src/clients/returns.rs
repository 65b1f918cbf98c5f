//! Customers who return what they ordered, and an operator who decides about it and pays goodwill back.

use amends_engine::port::Inputs;
use amends_workflows::{
    order_fulfilment::OrderInput,
    order_ledger::{Pieces, RefundOf, line_id},
    order_return::{DECISION, Decision},
};

use super::*;
use crate::store::{Addition, Wanted};

/// What happens to an order once it is fulfilled: how long after its acceptance, and what.
#[derive(Debug, Clone)]
pub struct Afterwards {
    after: Micros,
    wanted: Wanted,
    /// How long afterwards a return is decided, and how; the first decision counts.
    decisions: Vec<(Micros, bool)>,
}

/// Draws what happens to an order afterwards.
pub(super) fn draw(rng: &mut Rng, input: &OrderInput) -> Vec<Afterwards> {
    if rng.random_bool(0.4) {
        return Vec::new();
    }
    let longest = [2 * SECOND, 60 * SECOND, 600 * SECOND][rng.random_range(0..3)];
    let count = rng.random_range(1..=4);
    (0..count)
        .map(|_| Afterwards {
            after: rng.random_range(0..longest),
            wanted: wanted(rng, input),
            decisions: {
                let count = rng.random_range(1..=3);
                (0..count).map(|_| (rng.random_range(0..60 * SECOND), rng.random_bool(0.8))).collect()
            },
        })
        .collect()
}

fn wanted(rng: &mut Rng, input: &OrderInput) -> Wanted {
    let line = rng.random_range(0..input.lines.len());
    let quantity = rng.random_range(1..=input.lines[line].quantity);
    let pieces = || vec![Pieces { line_id: line_id(line), quantity }];
    match rng.random_range(0..6) {
        0 | 1 => Wanted::Return(None),
        2 | 3 => Wanted::Return(Some(pieces())),
        4 => Wanted::Refund(RefundOf::Lines(pieces())),
        _ => Wanted::Refund(RefundOf::Amount(rng.random_range(1..=input.total.max(1)))),
    }
}

/// Sends the request until it is answered. A refused one may fit later: an order is not fulfilled at once.
pub(super) async fn afterwards(handle: Handle, order: Uuid, number: u64, plan: Afterwards) {
    handle.sleep(plan.after).await;
    for _ in 0..60 {
        let (order_wanted, is_return) = (plan.wanted.clone(), matches!(plan.wanted, Wanted::Return(_)));
        let answer = request(&handle, move |door, answer| add(door, order, number, order_wanted, answer));
        match answer.await {
            Some(Some(Ok(saga))) => {
                if is_return {
                    for (after, approved) in plan.decisions {
                        let h = handle.clone();
                        let decide = async move {
                            h.sleep(after).await;
                            decide(&h, saga, approved).await;
                        };
                        handle.state().control.push(Control::Spawn(OUTSIDE, Box::pin(decide)));
                    }
                }
                return;
            }
            Some(Some(Err(()))) => handle.sleep(20 * SECOND).await,
            Some(None) | None => handle.sleep(2 * SECOND).await,
        }
    }
}

/// The door's answer: the saga, a refusal, or nothing.
type Answer = Option<Result<Uuid, ()>>;

async fn add(door: Handle, order: Uuid, number: u64, wanted: Wanted, answer: OneShot<Answer>) {
    let engine = engine(&door);
    match SimStore(door.clone()).add_to_order(engine.catalog.clone(), order, number, wanted).await {
        Ok(Addition::Done(change)) => {
            let saga_id = change.saga.id;
            answer.fill(Some(Ok(saga_id)));
            if let Event::Started(data) = change.entry.occurrence.event {
                let inputs = Inputs { saga_id, data, personal: None };
                let _ = engine.send(vec![(change.saga, change.sends, inputs)]).await;
            }
        }
        Ok(Addition::Known(saga)) => answer.fill(Some(Ok(saga))),
        Ok(Addition::Refused(_)) => answer.fill(Some(Err(()))),
        Ok(Addition::Impossible) | Err(_) => answer.fill(None),
    }
}

async fn decide(handle: &Handle, saga: Uuid, approved: bool) {
    signal(handle, saga, DECISION, Json::of(&Decision { approved }).unwrap_or_default()).await;
}
