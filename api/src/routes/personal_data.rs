//! `/api/customers/{customerId}/personal-data`: what is stored about a person, and its erasure.

use std::sync::Arc;

use amends_http::query::{self, Parameter};
use amends_orders::{Erasure, PersonalData};
use amends_workflows::order_fulfilment::{FULFILLED, Personal};
use axum::{
    Json,
    extract::{OriginalUri, Path, State},
    http::Method,
};
use serde_json::{Value, json};

use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    orders::{cursor::CursorScope, request},
    problem::{Fault, Problem},
    state::Api,
};

const PATH: &str = "/api/customers/{customerId}/personal-data";
const PAGE_USUAL: u32 = 50;
const LARGEST_PAGE: u32 = 200;

const CUSTOMER: &str = "customerId";
const LIMIT: &str = "limit";
const CURSOR: &str = "cursor";
const PARAMETERS: [Parameter; 2] = [Parameter::Once(LIMIT), Parameter::Once(CURSOR)];

/// Statuses in which an order needs its address no more, though its saga may have a step to go.
const SETTLED: [&str; 1] = [FULFILLED];

pub fn routes() -> Routes<Arc<Api>> {
    let admins = || Access::Needs(Right::HandlePersonalData);
    Routes::default().on(Method::GET, PATH, admins(), export).on(Method::DELETE, PATH, admins(), erase)
}

/// Answers a page of `{"orderId":"…","createdAt":"…","shippingAddress":{…},"contact":{…}}`, the oldest order first.
/// What was erased, or never stated, is null.
async fn export(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(customer_id): Path<String>,
    OriginalUri(uri): OriginalUri,
) -> Result<Json<Value>, Problem> {
    let query = query::read(&uri, &PARAMETERS)?;
    let customer_id = customer(customer_id)?;
    let scope = CursorScope::new(caller.subject(), PATH, &[(CUSTOMER, &customer_id)]);
    let (mut limit, mut after) = (PAGE_USUAL, None);
    for (name, value) in &query {
        match *name {
            LIMIT => {
                let why = || Fault::parameter(LIMIT, format!("must be 1-{LARGEST_PAGE}"));
                let stated = value.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
                limit = stated.ok_or_else(|| Problem::Invalid(vec![why()]))?;
            }
            _ => {
                let why = "must be the `next` of a page of the same list, for the same caller";
                let stated = scope.after(&api.engine.key, value);
                after = Some(stated.ok_or_else(|| Problem::Invalid(vec![Fault::parameter(CURSOR, why)]))?);
            }
        }
    }
    let page = api.order_lists.personal_data(&customer_id, after, limit).await?;
    let items: Vec<Value> = page.items.iter().map(shown).collect();
    let next = page.next.map(|after| scope.cursor(&api.engine.key, &after));
    Ok(Json(json!({ "customerId": customer_id, "items": items, "next": next })))
}

fn shown(PersonalData { order_id, created_at, data }: &PersonalData) -> Value {
    let personal: Option<Personal> = data.as_ref().and_then(|data| data.read().ok());
    let (address, contact) = match personal {
        Some(Personal { shipping_address, contact }) => (Some(shipping_address), contact),
        None => (None, None),
    };
    json!({ "orderId": order_id, "createdAt": created_at, "shippingAddress": address, "contact": contact })
}

/// Erases contact and addresses of all of a customer's orders, and records who did so. Books, totals and ids stay.
async fn erase(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(customer_id): Path<String>,
    OriginalUri(uri): OriginalUri,
) -> Result<Json<Value>, Problem> {
    query::read(&uri, &[])?;
    let customer_id = customer(customer_id)?;
    match api.order_lists.erase_personal_data(&customer_id, caller.subject(), &SETTLED).await? {
        Erasure::Erased { orders, at } => {
            Ok(Json(json!({ "customerId": customer_id, "erasedOrders": orders, "erasedAt": at })))
        }
        Erasure::UnderWay(orders) => {
            let named: Vec<String> = orders.iter().map(ToString::to_string).collect();
            Err(Problem::Conflict {
                slug: "orders-under-way",
                title: "Orders are under way",
                detail: format!(
                    "Nothing was erased: these orders still need their address: {}.",
                    named.join(", ")
                ),
            })
        }
    }
}

fn customer(id: String) -> Result<String, Problem> {
    match request::text(&id, &()) {
        Ok(()) => Ok(id),
        Err(why) => Err(Problem::Invalid(vec![Fault::parameter(CUSTOMER, why.to_string())])),
    }
}
