//! Changes of stock by hand.

use amends_http::{
    Fault, ProblemDetails, body,
    text::{self, Text},
};
use axum::{
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use garde::Validate;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, RefOr,
        schema::{OneOfBuilder, Schema, SchemaType, Type},
    },
};

use super::{PRODUCT_ID, Product, Shared, is_product_id, product_id};
use crate::{
    by_hand::{self, ByHand, Change, Changed, ON_HAND_MOST},
    problem::Problem,
    requests::{self, Given, KeyUse, Once},
};

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The header in which the api says on whose behalf it asks: their subject, percent-encoded.
pub const SUBJECT: HeaderName = HeaderName::from_static("amends-subject");

/// `{"onHand": 100}` or `{"adjust": -3}`.
#[derive(Debug, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StockRequest {
    /// The quantity on hand from now on.
    #[garde(inner(range(min = 0, max = ON_HAND_MOST)))]
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "body::given")]
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64, nullable = false)]
    on_hand: Option<i64>,
    /// What is added to the quantity on hand, or taken from it. Only with an `Idempotency-Key`.
    #[garde(inner(range(min = -ON_HAND_MOST, max = ON_HAND_MOST), custom(some)))]
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "body::given")]
    #[schema(value_type = Adjustment, required = false)]
    adjust: Option<i64>,
    /// Why, in the operator's words.
    #[garde(inner(custom(words)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Text>)]
    reason: Option<String>,
}

/// `{"productId": "mug-blue", "quantity": 20}`.
#[derive(Debug, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddRequest {
    /// The product.
    #[garde(custom(product))]
    #[schema(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    product_id: String,
    /// The number of pieces that are added.
    #[garde(range(min = 1, max = ON_HAND_MOST))]
    #[schema(minimum = 1, maximum = 1_000_000_000_000_i64)]
    quantity: i64,
    /// Why, in the operator's words.
    #[garde(inner(custom(words)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Text>)]
    reason: Option<String>,
}

/// What is added, or taken if it is below 0.
struct Adjustment;

impl PartialSchema for Adjustment {
    fn schema() -> RefOr<Schema> {
        let range = |least: i64, most: i64| {
            let whole = SchemaType::Type(Type::Integer);
            ObjectBuilder::new().schema_type(whole).minimum(Some(least)).maximum(Some(most))
        };
        OneOfBuilder::new().item(range(-ON_HAND_MOST, -1)).item(range(1, ON_HAND_MOST)).into()
    }
}

impl ToSchema for Adjustment {}

fn some(quantity: &i64, (): &()) -> garde::Result {
    if *quantity == 0 { Err(garde::Error::new("must not be 0")) } else { Ok(()) }
}

fn words(text: &str, (): &()) -> garde::Result {
    text::check(text).map_err(garde::Error::new)
}

fn product(id: &str, (): &()) -> garde::Result {
    if is_product_id(id) { Ok(()) } else { Err(garde::Error::new(PRODUCT_ID)) }
}

/// Sets or adjusts the quantity on hand. The difference is an adjustment in the ledger; a new product begins with one.
pub(super) async fn set_stock(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let product_id = product_id(id, "productId")?;
    let request: StockRequest = body::read(&headers, &bytes)?;
    let once = once(&headers, &request)?;
    let change = match (request.on_hand, request.adjust) {
        (Some(on_hand), None) => Change::Set(on_hand),
        (None, Some(_)) if once.is_none() => {
            let why = "must be given with `adjust`, so that it is done once";
            return Err(ProblemDetails::invalid(vec![Fault::header(IDEMPOTENCY_KEY, why)]).into());
        }
        (None, Some(adjust)) => Change::Adjust(adjust),
        (None, None) => return Err(fault("/onHand", "the field is missing")),
        (Some(_), Some(_)) => return Err(fault("/adjust", "must not be given beside `onHand`")),
    };
    let by_hand = ByHand { product_id, change, reason: request.reason, by: subject(&headers) };
    carried_out(&shared, by_hand, once).await
}

/// Adds to the quantity on hand.
pub(super) async fn add(
    State(shared): State<Shared>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let request: AddRequest = body::read(&headers, &bytes)?;
    let once = once(&headers, &request)?;
    let AddRequest { product_id, quantity, reason } = request;
    let by_hand = ByHand { product_id, change: Change::Add(quantity), reason, by: subject(&headers) };
    carried_out(&shared, by_hand, once).await
}

/// Makes a change and stores its answer, in one transaction. No reader sees the old value once it is answered.
async fn carried_out(
    Shared { pool, cache }: &Shared,
    by_hand: ByHand,
    once: Option<Once>,
) -> Result<Response, Problem> {
    let mut tx = pool.begin().await?;
    if let Some(once) = &once {
        match requests::take(&mut tx, once).await? {
            KeyUse::First => {}
            KeyUse::Replayed(given) => {
                tx.rollback().await?;
                // The process that has made the change may have died before its cache forgot the product.
                cache.forget(&[&by_hand.product_id]).await;
                let mut response = answer(&by_hand, given);
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
                return Ok(response);
            }
            KeyUse::KeyReused => return Err(Problem::KeyReused),
        }
    }
    let (on_hand, reserved, is_new) = match by_hand::make(&mut tx, &by_hand).await? {
        Changed::Done { on_hand, reserved, is_new } => (on_hand, reserved, is_new),
        Changed::UnknownProduct => return Err(Problem::UnknownProduct),
        Changed::BelowReserved { reserved, on_hand } => {
            let fits = match by_hand.change {
                Change::Set(_) => Fault::at("/onHand", format!("must be at least {reserved}")),
                Change::Adjust(_) | Change::Add(_) => {
                    Fault::at("/adjust", format!("must be at least {}", reserved - on_hand))
                }
            };
            return Err(Problem::BelowReserved { reserved, fits });
        }
        Changed::TooMuch { on_hand } => {
            let most = ON_HAND_MOST - on_hand;
            let place = if matches!(by_hand.change, Change::Add(_)) { "/quantity" } else { "/adjust" };
            let fits = Fault::at(place, format!("must be at most {most}")).remaining(most);
            return Err(Problem::TooMuch(fits));
        }
    };
    let product_id = by_hand.product_id.clone();
    let product = Product { product_id, on_hand, reserved, available: on_hand - reserved };
    let body = serde_json::to_string(&product).map_err(|_| Problem::Unavailable)?;
    let is_created = is_new && matches!(by_hand.change, Change::Add(_));
    let given = Given { status: if is_created { 201 } else { 200 }, body };
    if let Some(once) = &once {
        requests::keep(&mut tx, once, &given).await?;
    }
    let committed = tx.commit().await;
    // Without an answer it may be committed all the same.
    cache.forget(&[&by_hand.product_id]).await;
    committed?;
    Ok(answer(&by_hand, given))
}

fn answer(by_hand: &ByHand, given: Given) -> Response {
    let status = u16::try_from(given.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let mut response = Response::new(Body::from(given.body));
    *response.status_mut() = status.unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == Some(StatusCode::CREATED) {
        // The characters of a product's id need no escapes.
        let location = HeaderValue::try_from(format!("/api/inventory/{}", by_hand.product_id));
        headers.extend(location.ok().map(|location| (header::LOCATION, location)));
    }
    response
}

fn fault(pointer: &str, detail: &str) -> Problem {
    ProblemDetails::invalid(vec![Fault::at(pointer, detail)]).into()
}

/// Returns the digests of a request's key and content, if it has a key.
fn once(headers: &HeaderMap, content: &impl Serialize) -> Result<Option<Once>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        if !headers.contains_key(IDEMPOTENCY_KEY) {
            return Ok(None);
        }
        let fault = Fault::header(IDEMPOTENCY_KEY, "must be given once");
        return Err(ProblemDetails::invalid(vec![fault]).into());
    };
    let content = serde_json::to_vec(content).unwrap_or_default();
    Ok(Some(Once {
        request: Sha256::digest(key.as_bytes()).into(),
        fingerprint: Sha256::digest(content).into(),
    }))
}

/// Returns on whose behalf the api asks.
fn subject(headers: &HeaderMap) -> Option<String> {
    let encoded = headers.get(SUBJECT)?.to_str().ok()?;
    let subject = percent_decode_str(encoded).decode_utf8().ok()?;
    text::check(&subject).is_ok().then(|| subject.into_owned())
}
