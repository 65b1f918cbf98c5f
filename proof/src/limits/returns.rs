//! Shipped orders come back, all at once. Of every other order two returns are asked for at the same time, and while one of
//! them is decided somebody pays the whole of it back as well; of the others, the return and the whole refund are asked for
//! at the same time, and either may be the first. No piece comes back twice, and no cent more is paid back than was
//! captured.

use std::{path::Path, time::Duration};

use futures::{StreamExt, future::join, stream};
use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Check, Error, Finding,
    load::{PRODUCT, PlacementAnswer, Shop, steadily},
    stage::Stage,
};
use crate::{books::Ledger, campaign::workload::order};

/// Orders per second, until there are [`ORDERS`].
const RATE: f64 = 100.0;
const ORDERS: f64 = 600.0;
/// Orders that are returned at once.
const TOGETHER: usize = 32;
/// How long the orders may take to be shipped, and then to be returned, paid back and restocked.
const SHIPPED_WITHIN: Duration = Duration::from_secs(60);
const RETURNED_WITHIN: Duration = Duration::from_secs(60);
/// What has not ended, but for returns that wait for their decision.
const UNDER_WAY: &str = "SELECT count(*) FROM sagas WHERE live";

/// The answers about one order.
struct Asked {
    race: Race,
    approval: u16,
    /// Of the whole amount, without a return.
    refund: u16,
}

/// What was asked for at the same time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Race {
    /// Two returns; their answers.
    Returns([u16; 2]),
    /// A return, with its answer, and the refund. Goodwill that has come first leaves nothing to be paid back for the
    /// return, which is taken all the same.
    Refund(u16),
}

impl Asked {
    /// Returns whether the order is returned once, and paid back once by either.
    fn is_once(&self) -> bool {
        match self.race {
            Race::Returns([202, 409] | [409, 202]) => self.refund == 409,
            Race::Returns(_) => false,
            Race::Refund(back) => back == 202 && matches!(self.refund, 202 | 409),
        }
    }

    /// Returns whether the refund came before the return.
    fn is_refund_first(&self) -> bool {
        matches!(self.race, Race::Refund(_)) && self.refund == 202
    }
}

pub(super) async fn measure(program: &Path, size: f64) -> Result<Finding, Error> {
    let stage = Stage::set(program, &[]).await?;
    let line = json!({ "productId": PRODUCT, "quantity": 2, "unitPrice": 1250 });
    let body = order(vec![line], "EUR", "card_approved", "AT").to_string();
    let time = Duration::from_secs_f64(ORDERS * size / RATE);
    let placed = steadily(&stage.shop, RATE, time, &body, "shipped").await;
    let of = |(_, answer): &(String, PlacementAnswer)| match answer {
        PlacementAnswer::Placed(id) => Some(*id),
        _ => None,
    };
    let orders: Vec<Uuid> = placed.iter().filter_map(of).collect();
    stage.until_none(UNDER_WAY, SHIPPED_WITHIN).await?;

    let begun = Instant::now();
    let shop = &stage.shop;
    let asked: Vec<Asked> = stream::iter(orders.iter().enumerate())
        .map(|(n, id)| ask(shop, *id, n))
        .buffer_unordered(TOGETHER)
        .collect()
        .await;
    let answered = begun.elapsed();
    stage.until_none(UNDER_WAY, RETURNED_WITHIN).await?;
    let took = begun.elapsed();

    let returned = stage.count("SELECT count(*) FROM sagas WHERE label = 'RETURNED'").await?;
    let over = stage
        .count(
            "SELECT count(*) FROM orders AS o
             WHERE (SELECT sum(x.amount) FROM order_sagas AS x JOIN sagas AS s ON s.id = x.saga_id
                    WHERE x.order_id = o.id AND s.outcome IS DISTINCT FROM 'undone') > o.total",
        )
        .await?;
    let report = stage.books(&Ledger::default()).await?;
    stage.end().await;

    let number = |holds: fn(&Asked) -> bool| asked.iter().filter(|one| holds(one)).count();
    let once = number(Asked::is_once);
    let approved = number(|one| one.approval == 202);
    let raced = number(|one| matches!(one.race, Race::Refund(_)));
    let refunds = number(Asked::is_refund_first);
    let (violations, all) = (report.violations(), orders.len());
    let mut check = Check::default();
    check.that(all == placed.len(), || format!("of {} orders {all} were taken", placed.len()));
    check.that(once == all, || {
        format!("of {all} orders {once} were returned exactly once, and paid back once")
    });
    check.that(approved == all, || format!("{approved} of {all} returns were approved"));
    check
        .that(raced >= all / 2, || format!("of {all} orders {raced} were refunded while they were returned"));
    check.that(returned == all as i64, || format!("{returned} of {all} orders are RETURNED"));
    check.that(over == 0, || format!("of {over} orders more was paid back than they cost"));
    check.that(violations == 0, || format!("{violations} violations of the books\n{report}"));
    Ok(Finding {
        asked: "shipped orders, each returned twice at once or returned and refunded whole at once: one return of each and no cent more, all of them paid back and restocked ≤ 60 s after; the books balance",
        measured: format!(
            "{all} orders of two pieces: {once} returned and paid back once; of {raced} races with a refund the refund won {refunds}; {:.1} s for the answers, {:.1} s until all were paid back and restocked ({:.0} returns/s); {violations} violations of the books",
            answered.as_secs_f64(),
            took.as_secs_f64(),
            all as f64 / took.as_secs_f64(),
        ),
        broken: check.0,
    })
}

/// Asks for two returns of an order at once, and then for all of the money while one is approved; or, of every other
/// order, for a return and all of the money at once.
async fn ask(shop: &Shop, id: Uuid, number: usize) -> Asked {
    let path = format!("/api/orders/{id}");
    let back = || async {
        shop.change(Method::POST, &format!("{path}/return"), &json!({ "reason": "damaged" })).await
    };
    let approve = || async { shop.change(Method::PUT, &format!("{path}/return/approve"), &json!({})).await };
    let goodwill = json!({ "amount": 2500, "reason": "late" });
    let refund = || async { shop.change(Method::POST, &format!("{path}/refunds"), &goodwill).await };
    if number.is_multiple_of(2) {
        let (one, other) = join(back(), back()).await;
        let (approval, refund) = join(approve(), refund()).await;
        return Asked { race: Race::Returns([one, other]), approval, refund };
    }
    // Neither is always sent first.
    let (back, refund) = match (number / 2).is_multiple_of(2) {
        true => join(back(), refund()).await,
        false => {
            let (refund, back) = join(refund(), back()).await;
            (back, refund)
        }
    };
    Asked { race: Race::Refund(back), approval: approve().await, refund }
}
