//! `/api/products`: what is sold, and at which price.

use std::sync::Arc;

use amends_http::{Fault, body, query};
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
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    auth::{
        Caller, Right,
        access::{Access, Routes},
    },
    http::{
        etag::{self, IfMatch, Representation},
        openapi::{
            Answer, Operation,
            schema::{self, Currency, Instant, ProductId, Text},
        },
        page::{CURSOR, LARGEST_PAGE, LIMIT, PAGE_PARAMETERS, PAGE_USUAL, PageRequest},
    },
    orders::{
        request::{UNIT_PRICE_MOST, currency_code, identifier, text},
        view::instant,
    },
    problem::{Problem, problem_types},
    state::Api,
};

const LIST: &str = "/api/products";
const ONE: &str = "/api/products/{productId}";

pub fn routes() -> Routes<Arc<Api>> {
    let reads = Access::Needs(Right::ReadProducts);
    Routes::default()
        .on(
            Method::GET,
            ONE,
            reads,
            read,
            Operation::new("readProduct", "Read a product and its price")
                .header(
                    "If-None-Match",
                    "Entity tags of states that the caller has.",
                    schema::string(),
                    Value::Null,
                )
                .answer(leading_on(Answer::json::<ProductView>(StatusCode::OK, "The product.").etag()))
                .answer(Answer::empty(StatusCode::NOT_MODIFIED, "The caller has this state.").etag())
                .problems(&[problem_types::UNKNOWN_PRODUCT]),
        )
        .on(
            Method::PUT,
            ONE,
            Access::Needs(Right::SetProducts),
            put,
            Operation::new("putProduct", "Create or replace a product")
                .about("Orders that were placed before keep their prices.")
                .if_match()
                .body::<ProductRequest>(json!({ "name": "Blue mug", "unitPrice": 1250, "currency": "EUR" }))
                .answer(leading_on(
                    Answer::json::<ProductView>(StatusCode::OK, "The product as it is now.").etag(),
                ))
                .answer(leading_on(
                    Answer::json::<ProductView>(StatusCode::CREATED, "The product, which is new.").etag(),
                )),
        )
        .each(|routes| routes.route_layer(from_fn(query::none)))
        .on(
            Method::GET,
            LIST,
            reads,
            list,
            Operation::new("listProducts", "List products, page by page")
                .query(LIMIT, "Largest number of products.", schema::limit(PAGE_USUAL, LARGEST_PAGE), 50)
                .query(CURSOR, "`next` of the page before.", schema::string(), Value::Null)
                .answer(Answer::page::<ProductView>().link(
                    "readProduct",
                    "productId",
                    "$response.body#/items/0/productId",
                )),
        )
}

/// Adds to the answer with a product what can be done with it.
fn leading_on(answer: Answer) -> Answer {
    let of_a_product = ["readProduct", "putProduct", "readStock", "changeStock"];
    let id = "$response.body#/productId";
    of_a_product.into_iter().fold(answer, |answer, operation| answer.link(operation, "productId", id))
}

/// `PUT /api/products/{productId}`, as it is sent.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[schema(description = "A product to be created or replaced.")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProductRequest {
    /// The name, for people.
    #[garde(custom(text))]
    #[schema(value_type = Text)]
    name: String,
    /// The price of one unit, in minor units of the currency.
    #[garde(range(min = 0, max = UNIT_PRICE_MOST))]
    #[schema(minimum = 0, maximum = 90_000_000_000_i64)]
    unit_price: i64,
    /// ISO 4217, upper case.
    #[garde(custom(currency_code))]
    #[schema(value_type = Currency)]
    currency: String,
}

/// A product as shown to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Product)]
#[serde(rename_all = "camelCase")]
pub struct ProductView {
    #[schema(value_type = ProductId)]
    product_id: String,
    #[schema(value_type = Text)]
    name: String,
    /// The price of one unit, in minor units of the currency.
    unit_price: i64,
    #[schema(value_type = Currency)]
    currency: String,
    #[schema(value_type = Instant)]
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
    Problem::Refused(problem_types::UNKNOWN_PRODUCT, "There is no such product.".to_owned())
}
