//! `/api/products`: what is sold, and at which price.

use std::sync::Arc;

use amends_http::{Fault, ProblemDetails, body, query};
use amends_orders::products::{NewProduct, Product};
use axum::{
    body::Bytes,
    extract::{OriginalUri, Path, State},
    http::{HeaderMap, Method, StatusCode},
    middleware::from_fn,
    response::Response,
};
use garde::Validate;
use serde::{Deserialize, Serialize};

use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    http::{
        etag::{self, IfMatch, Representation},
        page::{PAGE_PARAMETERS, PageRequest},
    },
    orders::{
        request::{currency_code, identifier, text},
        view::instant,
    },
    problem::Problem,
    state::Api,
};

const LIST: &str = "/api/products";
const ONE: &str = "/api/products/{productId}";

pub fn routes() -> Routes<Arc<Api>> {
    let reads = Access::Needs(Right::ReadProducts);
    Routes::default()
        .on(Method::GET, ONE, reads, read)
        .on(Method::PUT, ONE, Access::Needs(Right::SetProducts), put)
        .each(|routes| routes.route_layer(from_fn(query::none)))
        .on(Method::GET, LIST, reads, list)
}

/// `PUT /api/products/{productId}`, as it is sent.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProductRequest {
    /// The name, for people.
    #[garde(custom(text))]
    name: String,
    /// The price of one unit, in minor units of the currency.
    #[garde(range(min = 0))]
    unit_price: i64,
    /// ISO 4217, upper case.
    #[garde(custom(currency_code))]
    currency: String,
}

/// A product as shown to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProductView {
    product_id: String,
    name: String,
    unit_price: i64,
    currency: String,
    updated_at: String,
}

impl From<Product> for ProductView {
    fn from(product: Product) -> Self {
        Self {
            product_id: product.product_id,
            name: product.name,
            unit_price: product.unit_price,
            currency: product.currency,
            updated_at: instant(product.updated_at),
        }
    }
}

async fn read(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = product_id(id)?;
    let product = api.products.get(&id).await?.ok_or_else(unknown_product)?;
    Representation::of(&ProductView::from(product))?.read(&headers)
}

/// Creates or replaces a product. Orders that were placed before keep their prices.
async fn put(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let (id, condition) = (product_id(id)?, IfMatch::read(&headers)?);
    let ProductRequest { name, unit_price, currency } = body::read(&headers, &body)?;
    let product = NewProduct { product_id: id, name, unit_price, currency };
    let stored = match condition {
        None => api.products.put(&product).await?,
        Some(condition) => {
            let seen = api.products.get(&product.product_id).await?.ok_or_else(etag::precondition_failed)?;
            let revision = seen.revision;
            condition.check(&Representation::of(&ProductView::from(seen))?.tag)?;
            api.products.replace(&product, revision).await?.ok_or_else(etag::precondition_failed)?
        }
    };
    let status = if stored.revision == 1 { StatusCode::CREATED } else { StatusCode::OK };
    Representation::of(&ProductView::from(stored))?.written(status)
}

async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let query = query::read(&uri, &PAGE_PARAMETERS)?;
    let page = PageRequest::<String>::read(&caller, &api.engine.key, LIST, query)?;
    let products = api.products.list(page.after.as_deref().unwrap_or_default(), page.limit).await?;
    let items: Vec<ProductView> = products.items.into_iter().map(ProductView::from).collect();
    Ok(page.answer(&api.engine.key, items, products.next.as_ref()))
}

/// Reads the id of a product in a path.
pub(super) fn product_id(id: String) -> Result<String, Problem> {
    match identifier(&id, &()) {
        Ok(()) => Ok(id),
        Err(why) => Err(Problem::Invalid(vec![Fault::parameter("productId", why.to_string())])),
    }
}

fn unknown_product() -> Problem {
    let (slug, title) = ("unknown-product", "Unknown product");
    ProblemDetails::new(StatusCode::NOT_FOUND, slug, title, "There is no such product.").into()
}
