//! Orders of every outcome, placed at a steady rate, whether or not they are answered in time.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::client::Client;

/// Number of products with sufficient stock.
const PRODUCTS: u32 = 12;
/// A card whose refunds the gateway declines: an operator pays back by other means.
const REFUND_REFUSED: &str = "card_refund_refused";
/// How long a client watches its order.
const WATCH: Duration = Duration::from_secs(20);

/// What a client does with its order.
#[derive(Debug, Clone, PartialEq)]
struct Plan {
    order: Value,
    key: String,
    /// Number of identical requests sent at once.
    copies: usize,
    /// Whether it uses the key again for a different order.
    misuses: bool,
    /// Delay after which it cancels the order.
    cancels: Option<Duration>,
    /// Whether it watches the order until the end.
    watches: bool,
    /// What it gives back, or what is paid back, once the order is fulfilled.
    afterwards: Option<Afterwards>,
}

/// What happens to a fulfilled order. Each is asked for twice at once.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Afterwards {
    /// Everything comes back, or one piece of the first line; an operator decides.
    Return { all: bool, approve: bool },
    /// Something is paid back.
    Goodwill { amount: i64 },
}

/// Sets the stock: sufficient for most products, little of one, none of another.
pub async fn stock(client: &Client, orders: usize) {
    for product in 0..PRODUCTS {
        client.stock(&format!("product-{product}"), 10_000_000).await;
    }
    client.stock("canary", 1_000_000).await;
    client.stock("scarce", i64::try_from(orders / 100).unwrap_or(i64::MAX)).await;
    client.stock("none-left", 0).await;
}

/// Places this many orders at this many per second, until stopped; returns the number placed, after every client has
/// its answer.
pub async fn run(client: &Client, orders: usize, rate: f64, seed: u64, stop: &CancellationToken) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
    // Open loop: delays are made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut clients = JoinSet::new();
    let mut placed = 0;
    while placed < orders && !stop.is_cancelled() {
        ticks.tick().await;
        let plan = plan(placed, seed, &mut random);
        clients.spawn(follow(client.clone(), plan));
        placed += 1;
        while clients.try_join_next().is_some() {}
    }
    while clients.join_next().await.is_some() {}
    placed
}

fn plan(number: usize, seed: u64, random: &mut StdRng) -> Plan {
    let (method, country, scarce) = match random.random_range(0..1000) {
        0..60 => ("card_declined", "AT", None),
        60..110 => ("card_approved", "AQ", None),
        110..150 => ("card_approved", "AT", Some("none-left")),
        150..160 => ("card_approved", "AT", Some("unheard-of")),
        160..185 => ("card_approved", "AT", Some("scarce")),
        185..230 => ("card_lost_reply", "AT", None),
        230..280 => ("card_error_twice", "AT", None),
        280..285 => ("card_slow", "AT", None),
        285..295 => (REFUND_REFUSED, "AQ", None),
        295..297 => ("card_approved", "BV", None),
        297..302 => (REFUND_REFUSED, "AT", None),
        _ => ("card_approved", "AT", None),
    };
    let lines = if random.random_bool(0.2) { random.random_range(2..5) } else { 1 };
    let mut lines: Vec<Value> = (0..lines)
        .map(|_| {
            let product = format!("product-{}", random.random_range(0..PRODUCTS));
            json!({ "productId": product, "quantity": random.random_range(1..4), "unitPrice": random.random_range(1..5000) })
        })
        .collect();
    if let Some(product) = scarce {
        lines[0]["productId"] = json!(product);
    }
    let currency = if random.random_bool(0.2) { "JPY" } else { "EUR" };
    let copies = if random.random_bool(0.05) { random.random_range(2..4) } else { 1 };
    let cancels = random.random_bool(0.06).then(|| Duration::from_millis(random.random_range(0..1500)));
    let afterwards = match (method, country) {
        // So that return or goodwill is refused.
        (REFUND_REFUSED, "AT") => Some(refused_afterwards(random)),
        _ => afterwards(random),
    };
    Plan {
        order: order(lines, currency, method, country),
        key: format!("{seed}-{number}"),
        copies,
        misuses: random.random_bool(0.01),
        cancels: cancels.filter(|_| country != "BV"),
        watches: random.random_bool(0.1),
        afterwards,
    }
}

/// What has to be paid back of an order that is shipped, and is refused.
fn refused_afterwards(random: &mut StdRng) -> Afterwards {
    match random.random_bool(0.7) {
        true => Afterwards::Return { all: random.random_bool(0.5), approve: true },
        // No order costs less.
        false => Afterwards::Goodwill { amount: 1 },
    }
}

fn afterwards(random: &mut StdRng) -> Option<Afterwards> {
    match random.random_range(0..100) {
        0..6 => {
            let (all, approve) = (random.random_bool(0.5), random.random_bool(0.8));
            Some(Afterwards::Return { all, approve })
        }
        6..8 => Some(Afterwards::Goodwill { amount: random.random_range(1..2000) }),
        _ => None,
    }
}

/// Creates a request for an order.
pub fn order(lines: Vec<Value>, currency: &str, method: &str, country: &str) -> Value {
    json!({
        "customerId": "c-1001", "currency": currency, "lines": lines, "payment": { "method": method },
        "shippingAddress": { "name": "Test Customer", "line1": "1 Long Street", "city": "Vienna",
                             "postalCode": "1010", "country": country },
    })
}

async fn follow(client: Client, plan: Plan) {
    let copies = (0..plan.copies).map(|_| client.place(&plan.order, &plan.key));
    let Some(Some(id)) = futures::future::join_all(copies).await.pop() else { return };
    if plan.misuses {
        let mut other = plan.order.clone();
        other["customerId"] = json!("c-2002");
        client.misuse(&other, &plan.key).await;
    }
    if let Some(after) = plan.cancels {
        sleep(after).await;
        client.cancel(id).await;
    }
    if let Some(afterwards) = plan.afterwards
        && client.watch(id, WATCH, Duration::from_millis(200)).await.as_deref() == Some("FULFILLED")
    {
        take_back(&client, id, afterwards, &plan.key).await;
    }
    if plan.watches {
        client.watch(id, WATCH, Duration::from_millis(500)).await;
    }
}

async fn take_back(client: &Client, id: Uuid, afterwards: Afterwards, key: &str) {
    let order = format!("/api/orders/{id}");
    match afterwards {
        Afterwards::Return { all, approve } => {
            let mut body = json!({ "reason": "campaign" });
            if !all {
                body["lines"] = json!([{ "lineId": "1", "quantity": 1 }]);
            }
            let path = format!("{order}/return");
            // Each has a key, so that a repeated request is answered like the first.
            let keys = [format!("{key}-one"), format!("{key}-other")];
            let ask = |key| client.change(Method::POST, &path, Some(key), &body);
            let (one, other) = futures::join!(ask(&keys[0]), ask(&keys[1]));
            if ![one, other].contains(&202) {
                return;
            }
            let path = format!("{path}/{}", if approve { "approve" } else { "reject" });
            let nothing = json!({});
            let decide = || client.change(Method::PUT, &path, None, &nothing);
            futures::join!(decide(), decide());
        }
        Afterwards::Goodwill { amount } => {
            let body = json!({ "amount": amount, "reason": "campaign" });
            let path = format!("{order}/refunds");
            let ask = || client.change(Method::POST, &path, Some(key), &body);
            futures::join!(ask(), ask());
        }
    }
}

/// Places an order and waits until it is fulfilled; returns how long that took.
pub async fn canary(client: &Client, key: &str, patience: Duration) -> Option<Duration> {
    let begun = Instant::now();
    let line = json!({ "productId": "canary", "quantity": 1, "unitPrice": 100 });
    let id = client.place(&order(vec![line], "EUR", "card_approved", "AT"), key).await?;
    let left = patience.saturating_sub(begun.elapsed());
    let status = client.watch(id, left, Duration::from_millis(25)).await;
    (status.as_deref() == Some("FULFILLED")).then(|| begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_has_returns_and_goodwill_whose_refund_is_refused() {
        let mut random = StdRng::seed_from_u64(1);
        let plans: Vec<Plan> = (0..20_000).map(|number| plan(number, 1, &mut random)).collect();
        let refused = plans.iter().filter(|plan| {
            let order = &plan.order;
            (order["payment"]["method"].as_str(), order["shippingAddress"]["country"].as_str())
                == (Some(REFUND_REFUSED), Some("AT"))
        });
        let refused: Vec<&Plan> = refused.filter(|plan| plan.cancels.is_none()).collect();
        let returns =
            |plan: &&&Plan| matches!(plan.afterwards, Some(Afterwards::Return { approve: true, .. }));
        let goodwill = |plan: &&&Plan| matches!(plan.afterwards, Some(Afterwards::Goodwill { .. }));
        let (returns, goodwill) =
            (refused.iter().filter(returns).count(), refused.iter().filter(goodwill).count());
        assert!(returns > 5 && goodwill > 2, "{returns} returns, {goodwill} refunds");
        assert_eq!(returns + goodwill, refused.len(), "each has something to be refused");
    }
}
