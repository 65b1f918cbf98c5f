//! Lists of orders, page by page.
//!
//! A list is in the order of ids, which begin with the millisecond of the order's birth by the database's clock. So a
//! period is a range of ids, and a page continues where the one before it ended, however many orders have arrived since.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use amends_pool::Pool;
use amends_postgres::{Database, Error, error, homes::each_home};
use amends_protocol::id;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{FromRow, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::{
    OrderStore, OrderView,
    order::{view_columns, view_tables},
};

/// Number of orders that one page reads at most when it looks for a status: a rare status needs several pages, some of
/// them empty.
const STATUS_SCAN: u32 = 600;
/// Number of orders that such a page reads first, for each that it may show: if the status is a common one, they are enough.
const STATUS_SCAN_FIRST: u32 = 4;
/// How long after its birth an order may still be committed: later its birth is refused (`arrives_in_time`, 12 s), and
/// a statement lasts at most 10 s.
const BIRTHS_SETTLE: Duration = Duration::from_secs(22);

/// The order of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sort {
    /// The newest order first.
    #[default]
    NewestFirst,
    /// The oldest order first.
    OldestFirst,
}

/// Which orders to list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OrderFilter {
    /// Only this customer's orders.
    pub customer_id: Option<String>,
    /// Only orders with one of these statuses; empty: with any.
    pub statuses: Vec<String>,
    /// Only orders born at this time or later.
    pub created_after: Option<DateTime<Utc>>,
    /// Only orders born before this time.
    pub created_before: Option<DateTime<Utc>>,
    /// The order of the list.
    pub sort: Sort,
    /// Only orders behind this one in the list: the previous page's `next`.
    pub after: Option<Uuid>,
    /// Maximum number of orders.
    pub limit: u32,
}

/// A page of a list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OrderPage {
    /// The orders, without personal fields.
    pub items: Vec<OrderView>,
    /// The `after` of the next page; `None` if this is the last. A page with a `next` may have fewer orders than its
    /// limit, or none.
    pub next: Option<Uuid>,
}

/// An order that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
struct Seen {
    id: Uuid,
    /// Whether it has a requested status.
    is_wanted: bool,
}

/// The orders to show on a page, and where the next one begins.
#[derive(Debug, PartialEq, Eq)]
struct Cut {
    shown: Vec<Uuid>,
    next: Option<Uuid>,
}

impl OrderStore {
    /// Reads a page of orders.
    ///
    /// A walk through all pages returns each order that existed when it began exactly once. Oldest first, it also
    /// returns each order that arrives before it ends: a birth may be committed some seconds after its time, so a page
    /// that does not reach the end of the list stops [`BIRTHS_SETTLE`] before the present.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(&self, filter: &OrderFilter) -> Result<OrderPage, Error> {
        let settled = least_id(self.now().await? - BIRTHS_SETTLE);
        let (seen, is_end) = self.seen(filter).await?;
        let Cut { shown, next } = cut(&seen, is_end, filter, settled);
        let Database { pool, homes, .. } = self.database();
        let view = |home, ids| async move { view(pool, home, ids, &filter.statuses).await };
        let views = each_home(homes.divide_ids(&shown), view).await?;
        let mut views: HashMap<Uuid, OrderView> =
            views.into_iter().flatten().map(|view| (view.order.id, view)).collect();
        let items = shown.into_iter().filter_map(|id| views.remove(&id)).collect();
        Ok(OrderPage { items, next })
    }

    /// Reads as many orders as a page may need. Returns also whether these are the last.
    async fn seen(&self, filter: &OrderFilter) -> Result<(Vec<Seen>, bool), Error> {
        let limit = filter.limit.max(1);
        if filter.statuses.is_empty() {
            return self.scan(filter, limit).await;
        }
        let few = limit.saturating_mul(STATUS_SCAN_FIRST).min(STATUS_SCAN);
        let (mut seen, is_end) = self.scan(filter, few).await?;
        let is_full = seen.iter().filter(|order| order.is_wanted).count() > limit as usize;
        if is_end || is_full || few == STATUS_SCAN {
            return Ok((seen, is_end));
        }
        let behind = OrderFilter { after: seen.last().map(|order| order.id), ..filter.clone() };
        let (more, is_end) = self.scan(&behind, STATUS_SCAN - few).await?;
        seen.extend(more);
        Ok((seen, is_end))
    }

    /// Reads the next `most` orders of a list, and one more, which shows whether there are more. Returns also whether
    /// these are the last.
    async fn scan(&self, filter: &OrderFilter, most: u32) -> Result<(Vec<Seen>, bool), Error> {
        let most = most + 1;
        let Database { pool, homes, .. } = self.database();
        let all = homes.all().map(|home| (home, ()));
        let scans = |home, ()| async move {
            let mut query = scan(home, filter, most);
            query.build_query_as().fetch_all(pool).await.map_err(error::of)
        };
        let mut seen: Vec<Seen> = each_home(all, scans).await?.into_iter().flatten().collect();
        match filter.sort {
            Sort::NewestFirst => seen.sort_by_key(|order| Reverse(order.id)),
            Sort::OldestFirst => seen.sort_by_key(|order| order.id),
        }
        seen.truncate(most as usize);
        let is_end = seen.len() < most as usize;
        Ok((seen, is_end))
    }
}

/// Reads orders of a home, if they have one of these statuses still.
async fn view(pool: &Pool, home: i16, ids: Vec<Uuid>, statuses: &[String]) -> Result<Vec<OrderView>, Error> {
    sqlx::query_as(concat!(
        view_columns!(),
        " FROM UNNEST($2::uuid[]) AS w (id)
          JOIN orders AS o ON ($1::int2 IS NULL OR o.home = $1) AND o.id = w.id ",
        view_tables!(),
        " WHERE $3 = '{}' OR s.label = ANY($3)"
    ))
    .bind(home)
    .bind(ids)
    .bind(statuses)
    .fetch_all(pool)
    .await
    .map_err(error::of)
}

/// The ids of a home's next orders in the list's order, at most `most`.
fn scan(home: i16, filter: &OrderFilter, most: u32) -> QueryBuilder<Postgres> {
    let oldest_first = filter.sort == Sort::OldestFirst;
    let direction = if oldest_first { " ORDER BY o.id" } else { " ORDER BY o.id DESC" };
    let mut query = QueryBuilder::new("SELECT o.id, ");
    match filter.statuses.is_empty() {
        true => query.push("true AS is_wanted FROM ("),
        false => query
            .push("(s.label = ANY(")
            .push_bind(filter.statuses.clone())
            .push(")) IS TRUE AS is_wanted FROM ("),
    };
    // Of a bound that is a parameter Postgres expects a tenth of the table, and then does not look sagas up one by one.
    let bound = most.max(STATUS_SCAN + 1);
    query.push("SELECT * FROM (SELECT o.id, o.saga_id FROM orders AS o WHERE (").push_bind(home);
    query.push("::int2 IS NULL OR o.home = ").push_bind(home).push(")");
    if let Some(customer) = &filter.customer_id {
        query.push(" AND o.customer_id = ").push_bind(customer.clone());
    }
    if let Some(at) = filter.created_after {
        query.push(" AND o.id >= ").push_bind(least_id(at));
    }
    if let Some(at) = filter.created_before {
        query.push(" AND o.id < ").push_bind(least_id(at));
    }
    if let Some(after) = filter.after {
        query.push(if oldest_first { " AND o.id > " } else { " AND o.id < " }).push_bind(after);
    }
    query.push(direction).push(format!(" LIMIT {bound}) AS o"));
    query.push(direction).push(" LIMIT ").push_bind(i64::from(most)).push(") AS o");
    if !filter.statuses.is_empty() {
        // An order whose saga is past its retention counts as read.
        query.push(" LEFT JOIN sagas AS s ON (").push_bind(home);
        query.push("::int2 IS NULL OR s.home = ").push_bind(home).push(") AND s.id = o.saga_id");
    }
    query.push(direction);
    query
}

/// Cuts a page from the orders that were read. `is_end`: there are no orders behind them.
fn cut(seen: &[Seen], is_end: bool, filter: &OrderFilter, settled: Uuid) -> Cut {
    let limit = filter.limit.max(1) as usize;
    let wanted = |seen: &[Seen]| seen.iter().filter(|order| order.is_wanted).map(|order| order.id).collect();
    let all: Vec<Uuid> = wanted(seen);
    if is_end && all.len() <= limit {
        return Cut { shown: all, next: None };
    }
    // The last of more orders than are read only shows that there are more.
    let read = if is_end { seen } else { &seen[..seen.len() - 1] };
    let full = all.get(limit).and_then(|beyond| read.iter().position(|order| order.id == *beyond));
    let young = (filter.sort == Sort::OldestFirst)
        .then(|| read.iter().position(|order| order.id >= settled))
        .flatten();
    let end = full.unwrap_or(read.len()).min(young.unwrap_or(read.len()));
    let start = if filter.sort == Sort::OldestFirst { Uuid::nil() } else { Uuid::max() };
    let next = read[..end].last().map(|order| order.id).or(filter.after).unwrap_or(start);
    Cut { shown: wanted(&read[..end]), next: Some(next) }
}

/// Returns the least id of an order that is born at this time or later, to the millisecond.
fn least_id(at: DateTime<Utc>) -> Uuid {
    let is_whole = at.timestamp_subsec_nanos().is_multiple_of(1_000_000);
    let up = if is_whole { TimeDelta::zero() } else { TimeDelta::milliseconds(1) };
    id::dated(Uuid::nil(), at + up)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Orders 1, 2, 3, …, of which these are wanted.
    fn seen(wanted: &[bool]) -> Vec<Seen> {
        let order =
            |(n, is_wanted): (usize, &bool)| Seen { id: number(n as u128 + 1), is_wanted: *is_wanted };
        wanted.iter().enumerate().map(order).collect()
    }

    fn number(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn oldest_first(limit: u32) -> OrderFilter {
        OrderFilter { sort: Sort::OldestFirst, limit, ..OrderFilter::default() }
    }

    fn cut_of(wanted: &[bool], is_end: bool, limit: u32, settled: u128) -> (Vec<u128>, Option<u128>) {
        let Cut { shown, next } = cut(&seen(wanted), is_end, &oldest_first(limit), number(settled));
        (shown.into_iter().map(|id| id.as_u128()).collect(), next.map(|id| id.as_u128()))
    }

    #[test]
    fn the_last_page_has_no_next_and_every_other_continues_behind_its_last_order() {
        assert_eq!(cut_of(&[true; 3], true, 3, 99), (vec![1, 2, 3], None));
        assert_eq!(cut_of(&[true; 4], false, 3, 99), (vec![1, 2, 3], Some(3)));
        assert_eq!(cut_of(&[], true, 3, 99), (vec![], None));
    }

    #[test]
    fn a_page_of_a_rare_status_continues_behind_what_was_read_though_it_shows_little() {
        assert_eq!(cut_of(&[false; 5], false, 3, 99), (vec![], Some(4)));
        assert_eq!(cut_of(&[true, false, true, false, false], false, 3, 99), (vec![1, 3], Some(4)));
        assert_eq!(cut_of(&[true, false, true, false, true], true, 2, 99), (vec![1, 3], Some(4)));
        assert_eq!(cut_of(&[false, true], true, 2, 99), (vec![2], None));
    }

    #[test]
    fn oldest_first_a_page_that_is_not_the_last_stops_before_births_that_may_still_be_committed() {
        assert_eq!(cut_of(&[true; 4], false, 3, 2), (vec![1], Some(1)));
        assert_eq!(cut_of(&[true; 4], false, 3, 1), (vec![], Some(0)), "the same page again");
        assert_eq!(cut_of(&[true; 3], true, 3, 1), (vec![1, 2, 3], None), "the last page shows all");
    }

    #[test]
    fn a_time_within_a_millisecond_begins_with_the_next_one() {
        let at = DateTime::from_timestamp_micros(1_767_225_600_123_456).unwrap();
        assert_eq!(id::born_at(least_id(at)).timestamp_millis(), 1_767_225_600_124);
        let whole = DateTime::from_timestamp_millis(1_767_225_600_123).unwrap();
        assert_eq!(id::born_at(least_id(whole)), whole);
    }
}
