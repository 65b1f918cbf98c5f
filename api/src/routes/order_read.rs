//! `GET /api/orders/{id}`: an order as it is now, if it has changed, or once its status changes.

use std::{pin::pin, sync::Arc, time::Duration};

use amends_http::{
    body,
    query::{self, Parameter},
};
use amends_orders::{OrderStore, OrderView};
use amends_workflows::order_fulfilment::STATUSES;
use axum::{
    extract::{OriginalUri, Path, State},
    http::{HeaderMap, Method, StatusCode},
    response::Response,
};
use humantime_serde::re::humantime::parse_duration;
use serde_json::Value;
use tokio::time::sleep;
use utoipa::{PartialSchema, openapi::ObjectBuilder};
use uuid::Uuid;

use super::orders::{leading_on, no_order};
use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    http::{
        etag::Representation,
        openapi::{
            Answer, Operation,
            schema::{self, OrderStatus},
        },
    },
    orders::view::{Audience, Order},
    problem::{Fault, Problem},
    state::Api,
};

/// The longest time that a request may wait for another status.
const WAIT_LONGEST: Duration = Duration::from_secs(30);
/// It ends after this time at the latest, because every request has to be answered within 30 s (`amends_http`).
const WAIT_BOUND: Duration = Duration::from_secs(28);
/// Number of requests that wait at once. Any further one is answered at once with the order as it is.
pub const WAITING_MOST: usize = 1_000;

const WAIT: &str = "wait";
const STATUS: &str = "status";
const PARAMETERS: [Parameter; 2] = [Parameter::Once(WAIT), Parameter::Once(STATUS)];

pub fn routes() -> Routes<Arc<Api>> {
    let operation = Operation::new("readOrder", "Read an order")
        .about(
            "With `wait` and `status`, it is answered once the status is another one, or with the same after that time. With \
             `If-None-Match`, a state that the caller has already is answered with 304.",
        )
        .query(WAIT, "How long to wait for another status: at most 30 s. Needs `status`.", wait_schema(), "1s")
        .query(STATUS, "The status that the caller has seen. Needs `wait`.", OrderStatus::schema(), "PENDING")
        .header("If-None-Match", "Entity tags of states that the caller has.", schema::string(), Value::Null)
        .answer(
            leading_on(Answer::json::<Order>(StatusCode::OK, "The order.").etag())
                .link("readSaga", "id", "$response.body#/sagaId"),
        )
        .answer(Answer::empty(StatusCode::NOT_MODIFIED, "The caller has this state.").etag());
    Routes::default().on(Method::GET, "/api/orders/{id}", Access::Needs(Right::ReadOrders), read, operation)
}

fn wait_schema() -> ObjectBuilder {
    schema::string().pattern(Some("^(0|(30|[12]?[0-9])s)$"))
}

/// A wait for another status than this one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wait {
    longest: Duration,
    while_it_is: String,
}

async fn read(
    State(api): State<Arc<Api>>,
    caller: Caller,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = body::id("id", &id)?;
    let view = match wait(&query::read(&uri, &PARAMETERS)?)? {
        Some(wait) => waited_for(&api, &caller, id, &wait).await?,
        None => view_of(&api.orders, &caller, id).await?,
    };
    Representation::of(&Order::now(&view, Audience::of(&caller)))?.read(&headers)
}

/// Reads an order, if it exists for the caller.
pub(super) async fn view_of(orders: &OrderStore, caller: &Caller, id: Uuid) -> Result<OrderView, Problem> {
    let view = orders.get(id).await?.filter(|view| caller.sees_orders_of(&view.order.customer_id));
    view.ok_or_else(no_order)
}

/// Waits until the status is another, the time is over, or the process stops.
async fn waited_for(api: &Api, caller: &Caller, id: Uuid, wait: &Wait) -> Result<OrderView, Problem> {
    let turn = api.waiting.try_acquire();
    let mut watcher = api.watches.watch(id);
    let mut until = pin!(sleep(wait.longest.min(WAIT_BOUND)));
    let mut is_over = turn.is_err();
    loop {
        // By the connections of lists: however many wait, placing keeps its own.
        let view = view_of(&api.order_lists, caller, id).await?;
        if view.label != wait.while_it_is || is_over {
            return Ok(view);
        }
        tokio::select! {
            () = watcher.differs_from(view.newest()) => {}
            () = &mut until => is_over = true,
            () = api.stop.cancelled() => is_over = true,
        }
    }
}

/// Reads `wait` and `status`: both, or neither.
fn wait(query: &[(&'static str, String)]) -> Result<Option<Wait>, Problem> {
    let given = |name: &str| query.iter().find(|(of, _)| *of == name).map(|(_, value)| value.as_str());
    let (wait, status) = match (given(WAIT), given(STATUS)) {
        (None, None) => return Ok(None),
        (Some(wait), Some(status)) => (wait, status),
        (None, Some(_)) => {
            let why = "is needed with status: how long to wait for another one, such as 10s";
            return Err(Problem::Invalid(vec![Fault::parameter(WAIT, why)]));
        }
        (Some(_), None) => {
            let why = "is needed with wait: the status that the caller has seen";
            return Err(Problem::Invalid(vec![Fault::parameter(STATUS, why)]));
        }
    };
    let mut faults = Vec::new();
    let longest = parse_duration(wait).ok().filter(|wait| *wait <= WAIT_LONGEST);
    if longest.is_none() {
        let why = format!("must be a time of at most {} s, such as 10s", WAIT_LONGEST.as_secs());
        faults.push(Fault::parameter(WAIT, why));
    }
    if !STATUSES.contains(&status) {
        faults.push(Fault::parameter(STATUS, format!("must be one of {}", STATUSES.join(", "))));
    }
    match longest {
        Some(longest) if faults.is_empty() => Ok(Some(Wait { longest, while_it_is: status.to_owned() })),
        _ => Err(Problem::Invalid(faults)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Option<Wait>, Problem> {
        wait(&query::read(&format!("/api/orders/x?{query}").parse().unwrap(), &PARAMETERS)?)
    }

    #[test]
    fn a_wait_has_a_time_and_the_status_that_was_seen() {
        assert_eq!(read("").unwrap(), None);
        let wait = Wait { longest: Duration::from_secs(10), while_it_is: "PENDING".into() };
        assert_eq!(read("wait=10s&status=PENDING").unwrap(), Some(wait));
        for (query, name) in [
            ("wait=10s", STATUS),
            ("status=PENDING", WAIT),
            ("wait=31s&status=PENDING", WAIT),
            ("wait=-1s&status=PENDING", WAIT),
            ("wait=10&status=PENDING", WAIT),
            ("wait=10s&status=pending", STATUS),
            ("wait=10s&wait=10s&status=PENDING", WAIT),
            ("until=10s", "query"),
        ] {
            let refused = format!("{:?}", read(query).unwrap_err());
            assert!(refused.contains(name), "{query}: {refused}");
        }
    }
}
