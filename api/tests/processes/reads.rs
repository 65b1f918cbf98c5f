//! Reads do not delay orders.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use amends_testkit::eventually;
use futures::future::join_all;

use crate::support::{
    LONG, Stack,
    client::{Client, order},
};

/// Number of rows in the table while it is listed, page by page.
const SAGAS: i32 = 27_000;
const LIST: &str = "/admin/sagas?limit=500";
const LISTS_AT_ONCE: usize = 50;
const ORDERS: usize = 60;
/// What a busy machine may add to a median.
const NOISE: Duration = Duration::from_millis(40);
/// How often both medians are taken: other programs of this machine may take its time while one of them is. Lists that
/// delayed orders would do so every time.
const ROUNDS: usize = 5;

/// Returns the median time in which an order is accepted, one after the other.
async fn median(client: &Client) -> Duration {
    let body = order("mug", 1, "card_approved", "AT");
    let mut took = Vec::with_capacity(ORDERS);
    for _ in 0..ORDERS {
        let begun = Instant::now();
        client.place(&body).await;
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    took[ORDERS / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_lists_at_once_leave_an_orders_median_latency_within_twice() {
    let stack = Stack::embedded().await;
    let api = stack.start(&["api"]).await;
    let client = api.client();
    let template = client.place(&order("mug", 1, "card_approved", "AT")).await;
    // The saga of one real order, many times: later ids, so that lists show them first.
    sqlx::query(
        "INSERT INTO sagas (home, id, born_at, workflow_version, slot, workflow, business_key, core_version, state_version,
                            revision, since, updated_at, live, parked, outcome, step, label, state)
         SELECT 0, (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::int8), 12, '0') || '7'
                 || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
                born_at, workflow_version, slot, workflow, business_key, core_version, state_version, revision, since,
                updated_at, false, false, 'completed', step, label, state
         FROM sagas AS s, generate_series(1, $2) AS n WHERE s.business_key = $1",
    )
    .bind(&template)
    .bind(SAGAS)
    .execute(stack.pool("engine"))
    .await
    .unwrap();
    let mut rounds = Vec::new();
    while rounds.len() < ROUNDS {
        let (alone, beside) = alone_and_beside_lists(&client).await;
        rounds.push((alone, beside));
        if beside <= alone * 2 + NOISE {
            return;
        }
    }
    panic!("orders took so long alone and beside lists: {rounds:?}");
}

/// Returns the cursor of the next page, without parsing this one: that would take time that the orders need.
fn next(page: &str) -> Option<&str> {
    page.rsplit_once(r#""next":""#)?.1.split('"').next()
}

/// Returns how long an order takes alone, and beside lists.
async fn alone_and_beside_lists(client: &Client) -> (Duration, Duration) {
    let alone = median(client).await;
    let (over, listed, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let list = || async {
        let mut page = LIST.to_owned();
        while !over.load(Ordering::Relaxed) {
            let (status, body) = client.try_get_text(&page).await.expect("an answer");
            match status {
                200 => {
                    listed.fetch_add(1, Ordering::Relaxed);
                    page = next(&body)
                        .map_or_else(|| LIST.to_owned(), |cursor| format!("{LIST}&after={cursor}"));
                }
                503 if body.contains("/problems/busy") => {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                other => panic!("{other}: {body}"),
            }
        }
    };
    let lists = join_all((0..LISTS_AT_ONCE).map(|_| list()));
    let orders = async {
        eventually("lists are read", LONG, || async { (listed.load(Ordering::Relaxed) > 4).then_some(()) })
            .await;
        let beside = median(client).await;
        over.store(true, Ordering::Relaxed);
        beside
    };
    let (_, beside) = tokio::join!(lists, orders);
    // Clients that still wait for their turn give up after a while.
    let page = eventually("a list", LONG, || async {
        client.try_get(LIST).await.filter(|(status, _)| *status == 200)
    });
    assert_eq!(page.await.1["items"].as_array().unwrap().len(), 500);
    let counts = (listed.into_inner(), refused.into_inner());
    println!("an order took {alone:?} alone, {beside:?} beside {counts:?} lists answered and refused");
    (alone, beside)
}
