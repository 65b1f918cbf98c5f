//! `/api/customers/{customerId}/personal-data`: what is stored about a person, and its erasure.

use std::sync::Arc;

use amends_http::query;
use amends_orders::{Erasure, PersonalData};
use amends_protocol::Json;
use amends_workflows::order_fulfilment::{FULFILLED, Personal};
use axum::{
    extract::{OriginalUri, Path, State},
    http::{Method, StatusCode},
    response::Response,
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    http::{
        openapi::{
            Answer, Operation,
            schema::{self, Instant, Locale, Text},
        },
        page::{CURSOR, LARGEST_PAGE, LIMIT, PAGE_PARAMETERS, PAGE_USUAL, PageRequest},
    },
    orders::{
        personal::{Address, Contact},
        request,
        view::instant,
    },
    problem::{Fault, Problem, problem_types},
    state::Api,
};

const PATH: &str = "/api/customers/{customerId}/personal-data";
const CUSTOMER: &str = "customerId";

/// Statuses in which an order needs its address no more, though its saga may have a step to go.
const SETTLED: [&str; 1] = [FULFILLED];

pub fn routes() -> Routes<Arc<Api>> {
    let admins = Access::Needs(Right::HandlePersonalData);
    let export_operation = Operation::new("exportPersonalData", "Export what is stored about a customer")
        .about("Contact, address and language of each order, the oldest order first. What was erased, or never stated, is null.")
        .query(LIMIT, "Largest number of orders.", schema::limit(PAGE_USUAL, LARGEST_PAGE), 50)
        .query(CURSOR, "`next` of the page before.", schema::string(), Value::Null)
        .answer(Answer::page::<PersonalDataItem>());
    let erase_operation =
        Operation::new("erasePersonalData", "Erase contact and addresses of a customer's orders")
            .about(
                "The reasons of cancellations, returns and refunds go too. Books, totals and ids stay. Who erased them, \
                 and when, is recorded.",
            )
            .answer(Answer::json::<Erased>(StatusCode::OK, "They are erased."))
            .problems(&[problem_types::ORDERS_UNDER_WAY]);
    Routes::default().on(Method::GET, PATH, admins, export, export_operation).on(
        Method::DELETE,
        PATH,
        admins,
        erase,
        erase_operation,
    )
}

/// What is stored about the customer of an order.
#[derive(Serialize, ToSchema)]
#[schema(as = PersonalData)]
#[serde(rename_all = "camelCase")]
struct PersonalDataItem {
    order_id: Uuid,
    #[schema(value_type = Instant)]
    created_at: String,
    #[schema(required, value_type = Option<Address>)]
    shipping_address: Option<Json>,
    #[schema(required, value_type = Option<Contact>)]
    contact: Option<Json>,
    #[schema(required, value_type = Option<Locale>)]
    locale: Option<String>,
}

/// An erasure.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Erased {
    #[schema(value_type = Text)]
    customer_id: String,
    /// Number of orders whose personal data were erased.
    erased_orders: u64,
    #[schema(value_type = Instant)]
    erased_at: String,
}

async fn export(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(customer_id): Path<String>,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let key = &api.engine.key;
    let page = PageRequest::read(&caller, key, uri.path(), query::read(&uri, &PAGE_PARAMETERS)?)?;
    let found = api.order_lists.personal_data(&customer(customer_id)?, page.after, page.limit).await?;
    let items: Vec<PersonalDataItem> = found.items.iter().map(shown).collect();
    Ok(page.answer(key, items, found.next.as_ref()))
}

fn shown(PersonalData { order_id, created_at, data }: &PersonalData) -> PersonalDataItem {
    let personal: Option<Personal> = data.as_ref().and_then(|data| data.read().ok());
    let (shipping_address, contact, locale) = match personal {
        Some(Personal { shipping_address, contact, locale }) => (Some(shipping_address), contact, locale),
        None => (None, None, None),
    };
    let created_at = instant(*created_at);
    PersonalDataItem { order_id: *order_id, created_at, shipping_address, contact, locale }
}

/// Erases contact and addresses of all of a customer's orders, with the reasons of their cancellations, returns and
/// refunds, and records who did so. Books, totals and ids stay.
async fn erase(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(customer_id): Path<String>,
    OriginalUri(uri): OriginalUri,
) -> Result<axum::Json<Erased>, Problem> {
    query::read(&uri, &[])?;
    let customer_id = customer(customer_id)?;
    match api.order_lists.erase_personal_data(&customer_id, caller.subject(), &SETTLED).await? {
        Erasure::Erased { orders, at } => {
            Ok(axum::Json(Erased { customer_id, erased_orders: orders, erased_at: instant(at) }))
        }
        Erasure::UnderWay(orders) => {
            let named: Vec<String> = orders.iter().map(ToString::to_string).collect();
            let why =
                format!("Nothing was erased: these orders still need their address: {}.", named.join(", "));
            Err(Problem::Refused(problem_types::ORDERS_UNDER_WAY, why))
        }
    }
}

fn customer(id: String) -> Result<String, Problem> {
    match request::text(&id, &()) {
        Ok(()) => Ok(id),
        Err(why) => Err(Problem::Invalid(vec![Fault::parameter(CUSTOMER, why.to_string())])),
    }
}
