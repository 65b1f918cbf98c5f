//! `/internal`: what the services of this deployment ask the api for, with the service token. Customers' and operators'
//! tokens open nothing here.

use std::sync::Arc;

use amends_http::{ProblemDetails, body, query};
use amends_notification::NO_SUCH_ORDER;
use amends_workflows::order_fulfilment::Personal;
use axum::{
    Json, Router,
    extract::{Path, State},
    http::HeaderValue,
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use serde::Serialize;

use crate::{
    gateway::{ServiceToken, service_token},
    orders::view::{Audience, Order},
    problem::Problem,
    state::Api,
};

/// The routes. They are in no document, so the matrix of callers has them from here: every route belongs in this list.
fn routes() -> [(&'static str, MethodRouter<Arc<Api>>); 1] {
    [("/internal/orders/{id}/addressee", get(addressee))]
}

/// Returns the paths of the routes.
pub fn paths() -> impl Iterator<Item = &'static str> {
    routes().into_iter().map(|(path, _)| path)
}

pub fn router(api: Arc<Api>, token: ServiceToken) -> Router {
    let routes = routes().into_iter();
    routes
        .fold(Router::new(), |router, (path, route)| router.route(path, route))
        .route_layer(from_fn(query::none))
        .route_layer(from_fn_with_state(token, service_token::required))
        .with_state(api)
}

/// An order, and how to reach its customer. Who asks must not keep the contact.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AddresseeView {
    is_erased: bool,
    contact: Option<amends_protocol::Json>,
    locale: Option<String>,
    order: Order,
}

async fn addressee(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Response, Problem> {
    let id = body::id("id", &id)?;
    // By the connections of lists: however many messages are sent, placing keeps its own.
    let Some(view) = api.order_lists.get(id).await? else {
        let mut none = ProblemDetails::not_found("There is no such order.").into_response();
        none.headers_mut().insert(NO_SUCH_ORDER, HeaderValue::from_static("true"));
        return Ok(none);
    };
    let stored = api.order_lists.personal_data_of(id).await?;
    let is_erased = stored.is_none();
    let personal: Option<Personal> = stored.and_then(|stored| stored.read().ok());
    let (contact, locale) = personal.map(|personal| (personal.contact, personal.locale)).unwrap_or_default();
    let order = Order::now(&view, Audience::Customer);
    Ok(Json(AddresseeView { is_erased, contact, locale, order }).into_response())
}
