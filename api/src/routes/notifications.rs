//! `/api/notifications`: the messages that customers got about their orders. The notification worker has it; the api knows whose
//! orders are whose.

use std::{fmt::Write, sync::Arc};

use amends_http::{
    body,
    query::{self, Parameter},
};
use amends_notification::{Notification, NotificationPage, STATUSES};
use amends_orders::OrderFilter;
use axum::{
    Json,
    extract::{OriginalUri, Path, State},
    http::{Method, StatusCode},
    middleware::from_fn,
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{inventory::passed_on, order_read::view_of};
use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    gateway::upstream::Asked,
    http::{
        openapi::{Answer, Operation, schema},
        page::{CURSOR, LARGEST_PAGE, LIMIT, PAGE_USUAL, PageRequest},
    },
    orders::cursor::Place,
    problem::{Fault, Problem, problem_types},
    state::Api,
};

const LIST: &str = "/api/notifications";
const ONE: &str = "/api/notifications/{id}";

const ORDER: &str = "orderId";
const STATUS: &str = "status";
const PARAMETERS: [Parameter; 4] =
    [Parameter::Once(ORDER), Parameter::Any(STATUS), Parameter::Once(LIMIT), Parameter::Once(CURSOR)];
/// Number of a customer's orders of which one page shows the notifications.
const ORDERS_AT_ONCE: u32 = 50;

pub fn routes() -> Routes<Arc<Api>> {
    let reads = Access::Needs(Right::ReadOrders);
    let one = behind(Operation::new("readNotification", "Read how a message to a customer was sent"))
        .about("Its address is masked for everyone. In `dev`, operators see the text that would be sent.")
        .answer(Answer::json::<Notification>(StatusCode::OK, "The notification."));
    let list_operation = behind(Operation::new("listNotifications", "List the messages to customers, page by page"))
        .about(
            "A customer sees those about their own orders. The newest order is first, and of an order the newest message. A \
             page may hold fewer than `limit` notifications, even none, while `next` is set.",
        )
        .query(ORDER, "Only about this order.", schema::uuid(), Value::Null)
        .query(STATUS, "Only with one of these statuses.", schema::several(schema::one_of(&STATUSES)), json!(["SENT"]))
        .query(LIMIT, "Largest number of notifications.", schema::limit(PAGE_USUAL, LARGEST_PAGE), 50)
        .query(CURSOR, "`next` of the page before, with the same other parameters.", schema::string(), Value::Null)
        .answer(Answer::page::<Notification>())
        // Of the order that `orderId` names.
        .problems(&[problem_types::NOT_FOUND]);
    Routes::default()
        .on(Method::GET, ONE, reads, read, one)
        .each(|routes| routes.route_layer(from_fn(query::none)))
        .on(Method::GET, LIST, reads, list, list_operation)
}

/// Adds the problems of every route that asks the worker.
fn behind(operation: Operation) -> Operation {
    operation.problems(&[
        problem_types::BUSY,
        problem_types::CIRCUIT_OPEN,
        problem_types::SERVICE_AWAY,
        problem_types::SERVICE_LATE,
    ])
}

/// The place of a notification in a list: its order, and its id. Behind all of an order's is the nil id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NotificationPlace {
    order: Uuid,
    id: Uuid,
}

impl Place for NotificationPlace {
    fn to_bytes(&self) -> Vec<u8> {
        [self.order.as_bytes().as_slice(), self.id.as_bytes()].concat()
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (order, id) = bytes.split_at_checked(16)?;
        Some(Self { order: Uuid::from_slice(order).ok()?, id: Uuid::from_slice(id).ok()? })
    }
}

impl NotificationPlace {
    /// Reads it as the worker writes it.
    fn of_worker(text: &str) -> Option<Self> {
        let (order, id) = text.split_once('.')?;
        Some(Self { order: order.parse().ok()?, id: id.parse().ok()? })
    }
}

async fn read(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = body::id("id", &id)?;
    let no_such = || Problem::NotFound("There is no such notification.".to_owned());
    let mut notification: Notification = match asked(&api, format!("{LIST}/{id}")).await? {
        Ok(notification) => notification,
        Err(answer) if answer.status() == StatusCode::NOT_FOUND => return Err(no_such()),
        Err(answer) => return Ok(answer),
    };
    if !caller.may(Right::ReadAnyOrder) {
        // A notification about another customer's order does not exist for a customer.
        view_of(&api.order_lists, &caller, notification.order_id).await.map_err(|problem| match problem {
            Problem::NotFound(_) => no_such(),
            other => other,
        })?;
    }
    if !caller.may(Right::ReadMessages) {
        notification.preview = None;
    }
    Ok(Json(notification).into_response())
}

async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let page = PageRequest::<NotificationPlace>::read(
        &caller,
        &api.engine.key,
        LIST,
        query::read(&uri, &PARAMETERS)?,
    )?;
    let (order, statuses) = filter(page.of_list())?;
    let mut path = format!("{LIST}?limit={}", page.limit);
    for status in statuses {
        write!(path, "&{STATUS}={status}").expect("a String takes all");
    }
    if let Some(NotificationPlace { order, id }) = page.after {
        write!(path, "&after={order}.{id}").expect("a String takes all");
    }
    let orders = match order {
        Some(order) => {
            view_of(&api.order_lists, &caller, order).await?;
            Some(Orders { ids: vec![order], next: None })
        }
        None if caller.may(Right::ReadAnyOrder) => None,
        None => Some(own_orders(&api, &caller, page.after).await?),
    };
    let orders_next = orders.as_ref().and_then(|orders| orders.next);
    if let Some(orders) = orders {
        if orders.ids.is_empty() {
            return Ok(page.answer(&api.engine.key, Vec::<Notification>::new(), None));
        }
        for order in orders.ids {
            write!(path, "&{ORDER}={order}").expect("a String takes all");
        }
    }
    let found: NotificationPage = match asked(&api, path).await? {
        Ok(found) => found,
        Err(answer) => return Ok(answer),
    };
    // Once these orders' notifications are shown, the next orders' follow.
    let next = found.next.as_deref().and_then(NotificationPlace::of_worker);
    let next = next.or(orders_next.map(|order| NotificationPlace { order, id: Uuid::nil() }));
    Ok(page.answer(&api.engine.key, found.items, next.as_ref()))
}

/// Some of a customer's orders.
struct Orders {
    ids: Vec<Uuid>,
    /// The last of them, if there are more.
    next: Option<Uuid>,
}

/// Returns the next of the caller's own orders, the newest first: from the one on whose notifications were shown last.
async fn own_orders(api: &Api, caller: &Caller, after: Option<NotificationPlace>) -> Result<Orders, Problem> {
    let filter = OrderFilter {
        customer_id: Some(caller.subject().to_owned()),
        after: after.map(|place| place.order),
        limit: ORDERS_AT_ONCE,
        ..OrderFilter::default()
    };
    let found = api.order_lists.list(&filter).await?;
    let unfinished = after.filter(|place| !place.id.is_nil()).map(|place| place.order);
    let ids = unfinished.into_iter().chain(found.items.iter().map(|view| view.order.id)).collect();
    Ok(Orders { ids, next: found.next })
}

/// Asks the worker for something; returns its answer as it is if that is none.
async fn asked<T: DeserializeOwned>(api: &Api, path: String) -> Result<Result<T, Response>, Problem> {
    let answered = api.notification.ask(Asked { path, ..Asked::default() }).await?;
    if answered.status != StatusCode::OK {
        return Ok(Err(passed_on(answered)));
    }
    let read = serde_json::from_slice(&answered.body).map_err(|error| {
        tracing::error!(%error, "the notification worker's answer cannot be read");
        Problem::Internal
    })?;
    Ok(Ok(read))
}

fn filter<'a>(query: &'a [(&'static str, String)]) -> Result<(Option<Uuid>, Vec<&'a str>), Problem> {
    let (mut order, mut statuses, mut faults) = (None, Vec::new(), Vec::new());
    for (name, value) in query {
        match *name {
            ORDER => match Uuid::try_parse(value) {
                Ok(stated) if value.len() == 36 => order = Some(stated),
                _ => faults.push(Fault::parameter(ORDER, "must be the id of an order")),
            },
            _ if STATUSES.contains(&value.as_str()) => statuses.push(value.as_str()),
            _ => {
                let why = format!("must be one of {}", STATUSES.join(", "));
                faults.push(Fault::parameter(STATUS, why));
            }
        }
    }
    if faults.is_empty() { Ok((order, statuses)) } else { Err(Problem::Invalid(faults)) }
}
