//! Requests for returns and refunds, and how their refusals are sent.

use amends_http::{Fault, ProblemDetails, ProblemType, body};
use amends_protocol::{Json, TokenKey};
use amends_workflows::order_ledger::{Pieces, RefundOf, Refusal};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{request::text, view::instant};
use crate::{
    http::openapi::schema::Text,
    problem::{Problem, problem_types},
};

/// What the seal of a quote is a seal of.
const QUOTE: &str = "refund quote";
/// Number of hex digits of a seal.
const SEAL: usize = 32;

/// `POST /api/orders/{id}/return`.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReturnRequest {
    /// Why, in the customer's words.
    #[garde(custom(text))]
    #[schema(value_type = Text)]
    pub reason: String,
    /// The pieces that come back; all that are left if it is left out.
    #[garde(dive, custom(some_lines))]
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "body::given")]
    #[schema(nullable = false, min_items = 1, max_items = 100)]
    lines: Option<Vec<PiecesRequest>>,
}

/// A number of pieces of a line.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PiecesRequest {
    #[garde(custom(text))]
    #[schema(value_type = Text)]
    line_id: String,
    #[garde(range(min = 1, max = 1_000_000))]
    #[schema(minimum = 1, maximum = 1_000_000)]
    quantity: i64,
}

/// The body of a decision about a return.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DecisionRequest {
    /// Why, in the operator's words.
    #[garde(inner(custom(text)))]
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "body::given")]
    #[schema(value_type = Text, required = false)]
    pub reason: Option<String>,
}

/// `POST /api/orders/{id}/refunds`.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RefundRequest {
    /// An amount, in minor units of the order's currency.
    #[garde(inner(range(min = 1)))]
    #[schema(minimum = 1, nullable = false)]
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "body::given")]
    amount: Option<i64>,
    /// The pieces whose price is paid back.
    #[garde(dive, custom(some_lines))]
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "body::given")]
    #[schema(nullable = false, min_items = 1, max_items = 100)]
    lines: Option<Vec<PiecesRequest>>,
    /// The hash of a quote.
    #[garde(inner(length(min = SEAL, max = 60_000)))]
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "body::given")]
    #[schema(nullable = false, min_length = 32, max_length = 60_000, pattern = "^([0-9a-f]{2}){16,30000}$")]
    quote: Option<String>,
    /// Why, in the operator's words. Needed but for a quote.
    #[garde(inner(custom(text)))]
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "body::given")]
    #[schema(value_type = Text, required = false)]
    reason: Option<String>,
}

/// `POST /api/orders/{id}/refunds/quote`.
#[derive(Debug, Clone, Serialize, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuoteRequest {
    /// An amount, in minor units of the order's currency.
    #[garde(inner(range(min = 1)))]
    #[schema(minimum = 1, nullable = false)]
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "body::given")]
    amount: Option<i64>,
    /// The pieces whose price would be paid back.
    #[garde(dive, custom(some_lines))]
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "body::given")]
    #[schema(nullable = false, min_items = 1, max_items = 100)]
    lines: Option<Vec<PiecesRequest>>,
    /// Why, in the operator's words: the refund's reason, unless it states another.
    #[garde(inner(custom(text)))]
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "body::given")]
    #[schema(value_type = Text, required = false)]
    reason: Option<String>,
}

/// What a refund request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedRefund {
    /// How much, or for what.
    pub of: RefundOf,
    /// Why.
    pub reason: String,
    /// The state of the order that was quoted. The refund is for that state alone.
    pub quoted_at: Option<OrderState>,
}

/// A state of an order and of its ledger: it is another after each change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderState {
    saga: Uuid,
    revision: i32,
    others: i64,
}

/// What a quote seals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    order: Uuid,
    state: OrderState,
    amount: Option<i64>,
    lines: Option<Vec<Pieces>>,
    reason: Option<String>,
}

fn some_lines(lines: &Option<Vec<PiecesRequest>>, (): &()) -> garde::Result {
    match lines.as_ref().map_or(1, Vec::len) {
        1..=100 => Ok(()),
        _ => Err(garde::Error::new("must have 1-100 lines, or be left out")),
    }
}

fn pieces(lines: Vec<PiecesRequest>) -> Vec<Pieces> {
    let piece = |PiecesRequest { line_id, quantity }| Pieces { line_id, quantity };
    lines.into_iter().map(piece).collect()
}

impl ReturnRequest {
    /// Returns the pieces that come back; `None`: all that are left.
    pub fn pieces(&self) -> Option<Vec<Pieces>> {
        self.lines.clone().map(pieces)
    }
}

impl OrderState {
    /// Returns the state of an order as it was read.
    pub fn of(view: &amends_orders::OrderView) -> Self {
        let amends_orders::Newest { saga_id, revision, others } = view.newest();
        Self { saga: saga_id, revision, others }
    }
}

impl RefundRequest {
    /// Reads what is asked for. A quote must be one of this order.
    ///
    /// # Errors
    /// 400.
    pub fn wanted(self, order: Uuid, key: &TokenKey) -> Result<WantedRefund, Problem> {
        let given = [self.amount.is_some(), self.lines.is_some(), self.quote.is_some()];
        if given.into_iter().filter(|given| *given).count() != 1 {
            let why = "must have exactly one of amount, lines and quote";
            return Err(Problem::Invalid(vec![Fault::at("", why)]));
        }
        if let Some(quote) = &self.quote {
            let why = "must be the hash of a quote for this order";
            let quote = Quote::open(key, quote).filter(|quote| quote.order == order);
            let quote = quote.ok_or_else(|| Problem::Invalid(vec![Fault::at("/quote", why)]))?;
            let reason = self.reason.or(quote.reason).unwrap_or_default();
            let of = refund_of(quote.amount, quote.lines);
            return Ok(WantedRefund { of, reason, quoted_at: Some(quote.state) });
        }
        let missing = || Problem::Invalid(vec![Fault::at("/reason", "the field is missing")]);
        let reason = self.reason.ok_or_else(missing)?;
        Ok(WantedRefund { of: refund_of(self.amount, self.lines.map(pieces)), reason, quoted_at: None })
    }
}

impl QuoteRequest {
    /// Reads what is to be quoted.
    ///
    /// # Errors
    /// 400.
    pub fn quoted(self, order: Uuid, state: OrderState) -> Result<Quote, Problem> {
        if self.amount.is_some() == self.lines.is_some() {
            let why = "must have exactly one of amount and lines";
            return Err(Problem::Invalid(vec![Fault::at("", why)]));
        }
        let lines = self.lines.map(pieces);
        Ok(Quote { order, state, amount: self.amount, lines, reason: self.reason })
    }
}

fn refund_of(amount: Option<i64>, lines: Option<Vec<Pieces>>) -> RefundOf {
    match (amount, lines) {
        (Some(amount), _) => RefundOf::Amount(amount),
        (None, lines) => RefundOf::Lines(lines.unwrap_or_default()),
    }
}

impl Quote {
    /// Returns what is quoted.
    pub fn of(&self) -> RefundOf {
        refund_of(self.amount, self.lines.clone())
    }

    /// Returns the hash that stands for the quote: what it says, sealed.
    pub fn hash(&self, key: &TokenKey) -> String {
        let content = Json::of(self).unwrap_or_default();
        let content = content.get().as_bytes();
        let hex: String = content.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}{hex}", key.seal(QUOTE, content))
    }

    /// Reads a quote; `None` unless it was made here.
    fn open(key: &TokenKey, hash: &str) -> Option<Self> {
        let (seal, content) = hash.split_at_checked(SEAL)?;
        let digits = content.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
        let content: Option<Vec<u8>> = digits.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect();
        let content = content?;
        key.is_seal(QUOTE, &content, seal).then(|| serde_json::from_slice(&content).ok()).flatten()
    }
}

/// Why a plan was refused while the order was locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// By the ledger.
    Ledger(Refusal),
    /// The order is in another state than the request is for.
    Moved,
    /// No workflow is known for it.
    NoWorkflow,
}

/// Returns how the refusal of a return or refund is sent.
pub fn problem(refused: Refused, kind: &'static ProblemType) -> Problem {
    let conflict = |detail: String| ProblemDetails::new(kind, detail);
    let nothing = Fault::at("", "nothing fits").remaining(0);
    match refused {
        Refused::Moved => {
            let detail = "The order is in another state than `If-Match` or the quote names. Nothing was changed: read it again.";
            Problem::Refused(problem_types::PRECONDITION_FAILED, detail.to_owned())
        }
        Refused::NoWorkflow => Problem::Unavailable("No program knows this workflow yet.".to_owned()),
        Refused::Ledger(Refusal::NoSuchLine(n)) => {
            let why = "must be a line of this order, and named once";
            Problem::Invalid(vec![Fault::at(format!("/lines/{n}/lineId"), why)])
        }
        Refused::Ledger(Refusal::TooMany { line, remaining }) => {
            let fault = Fault::at(format!("/lines/{line}/quantity"), format!("must be at most {remaining}"));
            let detail = format!("Only {remaining} pieces of this line are left.");
            conflict(detail).at(vec![fault.remaining(remaining)]).into()
        }
        Refused::Ledger(Refusal::MoreThanCaptured { remaining }) => {
            let fault = Fault::at("/amount", format!("must be at most {remaining}"));
            let detail = format!("Only {remaining} is left of what was captured.");
            conflict(detail).at(vec![fault.remaining(remaining)]).into()
        }
        Refused::Ledger(Refusal::Status(status)) => {
            conflict(format!("The order is {status}.")).at(vec![nothing]).into()
        }
        Refused::Ledger(Refusal::TooLate(until)) => {
            conflict(format!("It could be returned until {}.", instant(until))).into()
        }
        Refused::Ledger(Refusal::NothingLeft) => {
            conflict("Nothing of it is left.".to_owned()).at(vec![nothing]).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(body: serde_json::Value) -> RefundRequest {
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn a_refund_is_of_an_amount_of_lines_or_of_a_quote() {
        let (key, order) = (TokenKey::new([7; 32]), Uuid::from_u128(1));
        let wanted = request(json!({ "amount": 5, "reason": "late" })).wanted(order, &key).unwrap();
        assert_eq!((wanted.of, wanted.reason.as_str()), (RefundOf::Amount(5), "late"));
        for body in [
            json!({ "reason": "late" }),
            json!({ "amount": 5, "lines": [{ "lineId": "1", "quantity": 1 }], "reason": "late" }),
            json!({ "amount": 5 }),
            json!({ "quote": "00".repeat(40) }),
        ] {
            assert!(request(body.clone()).wanted(order, &key).is_err(), "{body}");
        }
    }

    #[test]
    fn a_quote_is_for_its_order_and_state_and_made_here() {
        let key = TokenKey::new([7; 32]);
        let state = OrderState { saga: Uuid::from_u128(2), revision: 6, others: 0 };
        let lines = json!({ "lines": [{ "lineId": "1", "quantity": 2 }], "reason": "late" });
        let lines: QuoteRequest = serde_json::from_value(lines).unwrap();
        let quote = lines.quoted(Uuid::from_u128(1), state).unwrap();
        let hash = quote.hash(&key);
        let of = |order, key: &TokenKey, hash: &str| {
            request(json!({ "quote": hash })).wanted(Uuid::from_u128(order), key)
        };
        let wanted = of(1, &key, &hash).unwrap();
        assert_eq!((wanted.of, wanted.reason), (quote.of(), "late".to_owned()));
        assert_eq!(wanted.quoted_at, Some(state));
        assert!(of(2, &key, &hash).is_err(), "another order's");
        assert!(of(1, &TokenKey::new([8; 32]), &hash).is_err(), "another key's");
        let changed = hash.replacen(&hash[40..42], if &hash[40..42] == "00" { "01" } else { "00" }, 1);
        for hash in [changed, format!("{hash}0"), hash[..SEAL].to_owned(), "ü".repeat(40)] {
            assert!(of(1, &key, &hash).is_err(), "{hash}");
        }
    }
}
