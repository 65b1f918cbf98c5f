//! Lists of orders that are walked while thousands arrive, some of them committed after younger ones.

mod customers;
#[path = "../../postgres/tests/support/mod.rs"]
mod support;

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use amends_orders::{OrderFilter, OrderStore, Sort};
use amends_testkit::eventually;
use chrono::TimeDelta;
use customers::{ids, place, place_born};
use futures::future::join_all;
use support::world;
use tokio::time::interval;
use uuid::Uuid;

/// Longer than anything takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(240);
/// Number of orders that arrive, at least.
const ARRIVALS: usize = 10_000;
const WRITERS: usize = 4;
/// Number of orders in a transaction, and the time from one to the next of a writer: 500 orders a second in all.
const BATCH: u16 = 25;
const PACE: Duration = Duration::from_millis(200);
/// Number of younger orders that are committed before a late one, and how old it becomes at most: a birth that is older
/// than 12 s is refused.
const OVERTAKING: usize = 300;
const OLDEST: TimeDelta = TimeDelta::seconds(5);
/// Orders of months ago, and of now: the walks are under way when the first order arrives.
const PAST: i32 = 2_000;
const PRESENT: u16 = 200;

/// Orders that are committed while the walks go on.
#[derive(Default)]
struct Arrivals {
    all: Mutex<BTreeSet<Uuid>>,
    count: AtomicUsize,
    /// Transactions that were committed after many younger orders.
    late: AtomicUsize,
    stop: AtomicBool,
    /// Writers that have ended.
    ended: AtomicUsize,
}

impl Arrivals {
    /// Places orders until it is stopped. A late writer dates its orders, and commits them after younger ones.
    async fn write(&self, store: &OrderStore, is_late: bool) {
        let mut pace = interval(PACE);
        while !self.stop.load(SeqCst) {
            pace.tick().await;
            let born = store.now().await.unwrap();
            if is_late {
                let enough = self.count.load(SeqCst) + OVERTAKING;
                eventually("others overtake", LONG, || async {
                    let is_old = store.now().await.unwrap() - born > OLDEST;
                    (self.count.load(SeqCst) >= enough || is_old || self.stop.load(SeqCst)).then_some(())
                })
                .await;
            }
            let placed = ids(&place_born(store, born, "c-1", BATCH).await);
            let mut all = self.all.lock().unwrap();
            let younger = all.range(*placed.last().unwrap()..).count();
            self.late.fetch_add(usize::from(younger >= OVERTAKING), SeqCst);
            all.extend(placed);
            drop(all);
            self.count.fetch_add(usize::from(BATCH), SeqCst);
        }
        self.ended.fetch_add(1, SeqCst);
    }

    /// Walks through the whole list, newest first; returns how many orders arrived meanwhile.
    async fn walk_back(&self, store: &OrderStore) -> usize {
        let (before, count) = (self.all.lock().unwrap().clone(), self.count.load(SeqCst));
        let mut filter = OrderFilter { limit: 50, ..OrderFilter::default() };
        let mut met: Vec<Uuid> = Vec::new();
        loop {
            let page = store.list(&filter).await.unwrap();
            met.extend(page.items.iter().map(|view| view.order.id));
            filter.after = page.next;
            if filter.after.is_none() {
                break;
            }
        }
        assert!(met.is_sorted_by(|newer, older| newer > older), "newest first, and none twice");
        let skipped = before.difference(&met.into_iter().collect()).count();
        assert_eq!(skipped, 0, "of {} that were there", before.len());
        self.count.load(SeqCst) - count
    }

    /// Walks through the list, oldest first, until enough have arrived and it has met some of them; stops the arrivals,
    /// and goes to the end. Returns what it has met.
    async fn walk_on(&self, store: &OrderStore) -> Vec<Uuid> {
        let mut filter = OrderFilter { limit: 100, sort: Sort::OldestFirst, ..OrderFilter::default() };
        let mut met: Vec<Uuid> = Vec::new();
        loop {
            let page = eventually("the next page", LONG, || async {
                let page = store.list(&filter).await.unwrap();
                // The last page would end the walk before the arrivals do.
                (page.next.is_some() && !page.items.is_empty()).then_some(page)
            })
            .await;
            met.extend(page.items.iter().map(|view| view.order.id));
            filter.after = page.next;
            let has_met_some = self.all.lock().unwrap().contains(met.last().unwrap());
            if has_met_some && self.count.load(SeqCst) >= ARRIVALS {
                break;
            }
        }
        self.stop.store(true, SeqCst);
        eventually("nothing more arrives", LONG, || async {
            (self.ended.load(SeqCst) == WRITERS).then_some(())
        })
        .await;
        // The present is on the last page only.
        filter.limit = 1_000_000;
        let last = store.list(&filter).await.unwrap();
        assert_eq!(last.next, None);
        met.extend(last.items.iter().map(|view| view.order.id));
        met
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_ten_thousand_orders_arrive_walks_in_both_directions_skip_none_and_meet_none_twice() {
    let world = world().await;
    let store = OrderStore::new(world.pool());
    world.past(&world.errand(3).await, 2, PAST, "live = false").await;
    place(&store, "c-0", PRESENT).await;

    let arrivals = Arrivals::default();
    let writers = join_all((0..WRITERS).map(|n| arrivals.write(&store, n == 0)));
    let back = async {
        let mut meanwhile = Vec::new();
        while !arrivals.stop.load(SeqCst) {
            meanwhile.push(arrivals.walk_back(&store).await);
        }
        meanwhile
    };
    let (met, meanwhile, _) = tokio::join!(arrivals.walk_on(&store), back, writers);

    let (count, late) = (arrivals.count.load(SeqCst), arrivals.late.load(SeqCst));
    assert!(count >= ARRIVALS && late > 3, "{count} orders arrived, {late} times out of order");
    assert!(meanwhile.iter().filter(|arrived| **arrived > 0).count() > 1, "{meanwhile:?}");
    assert!(met.is_sorted_by(|older, newer| older < newer), "oldest first, and none twice");
    let committed: Vec<Uuid> =
        sqlx::query_scalar("SELECT id FROM orders").fetch_all(world.owner()).await.unwrap();
    let committed: BTreeSet<Uuid> = committed.into_iter().collect();
    let skipped = committed.difference(&met.into_iter().collect()).count();
    assert_eq!(skipped, 0, "of {}", committed.len());
}
