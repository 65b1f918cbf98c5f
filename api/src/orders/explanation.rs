//! One sentence about an order for its customer: what it waits for, and until when. It names no worker, step, attempt
//! or operator; operators read the saga's own sentence (`amends_engine::operate`).

use amends_engine::operate::Explanation;
use amends_orders::OrderView;
use amends_workflows::{order_fulfilment as order, order_ledger::Standing};

use super::view::instant;

/// Explains an order to its customer. `is_parked`: it waits for a person of the shop.
pub fn explain(view: &OrderView, is_parked: bool) -> Explanation {
    let cancels_at = view.order.cancels_at.filter(|_| view.label == order::PENDING && !is_parked);
    let mut sentence = match view.label.as_str() {
        order::PENDING => match cancels_at {
            Some(at) => format!(
                "The order waits for its products to be reserved; if they are not by {}, it is cancelled",
                instant(at)
            ),
            None => "The order waits for its products to be reserved".to_owned(),
        },
        order::CONFIRMED => "The products are reserved, and the order waits for its payment".to_owned(),
        order::PAID => "The order is paid, and waits to be shipped".to_owned(),
        order::FULFILLED => "The order is shipped".to_owned(),
        order::CANCELLING => being_undone(view),
        order::CANCELLED if code(view) == Some("pending_timeout") => {
            "The order was cancelled, because its products were not reserved in time; nothing is charged"
                .to_owned()
        }
        order::CANCELLED => "The order was cancelled, and nothing is charged".to_owned(),
        order::FAILED => format!("The order failed{}; nothing is charged", reason_clause(view)),
        order::PAYMENT_FAILED => format!("The payment failed{}; nothing is charged", reason_clause(view)),
        order::SHIPMENT_FAILED => {
            format!("The order could not be shipped{}; what was paid is refunded", reason_clause(view))
        }
        order::RETURN_REQUESTED if is_decided(view) => {
            "The return is accepted; what was paid for it is refunded".to_owned()
        }
        order::RETURN_REQUESTED => "A return is requested, and the shop has to decide about it".to_owned(),
        order::RETURNED => "The order was returned, and what was paid is refunded".to_owned(),
        order::PARTIALLY_RETURNED => {
            "Part of the order was returned, and what was paid for it is refunded".to_owned()
        }
        // A status of a newer program.
        other => format!("The order is {other}"),
    };
    if is_parked {
        sentence.push_str(". It takes longer than usual: somebody at the shop has to look at it");
    }
    sentence.push('.');
    Explanation { sentence, until: cancels_at }
}

/// Whether the newest return is decided.
fn is_decided(view: &OrderView) -> bool {
    let newest = view.sagas.iter().flatten().find(|saga| saga.saga_id == view.order.saga_id);
    newest.is_some_and(|saga| saga.standing() != Standing::Requested)
}

fn being_undone(view: &OrderView) -> String {
    let what = match view.heading_for.as_deref() {
        Some(order::CANCELLED) => "The order is being cancelled".to_owned(),
        Some(order::PAYMENT_FAILED) => {
            format!("The payment failed{}, and the order is being undone", reason_clause(view))
        }
        Some(order::SHIPMENT_FAILED) => {
            format!("The order could not be shipped{}, and is being undone", reason_clause(view))
        }
        _ => format!("The order failed{}, and is being undone", reason_clause(view)),
    };
    format!("{what}: its products are released, and what was paid is refunded")
}

fn code(view: &OrderView) -> Option<&str> {
    view.reason.as_ref().map(|reason| reason.code.as_str())
}

/// What customers may know of a reason.
fn reason_clause(view: &OrderView) -> &'static str {
    match code(view) {
        Some("out_of_stock") => ", because a product is out of stock",
        Some("unknown_product") => ", because a product is not sold here",
        Some("card_declined") => ", because the card was declined",
        Some("unknown_method") => ", because the payment method is not known",
        Some("carrier_refused") => ", because the carrier does not deliver there",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use amends_orders::OrderRow;
    use amends_protocol::{Json, Reason};
    use chrono::{DateTime, Utc};
    use uuid::Uuid;

    use super::*;

    fn view(label: &str, heading_for: Option<&str>, reason: Option<&str>) -> OrderView {
        let at: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        OrderView {
            order: OrderRow {
                id: Uuid::nil(),
                saga_id: Uuid::nil(),
                subject: "shop".into(),
                customer_id: "c-1".into(),
                currency: "EUR".into(),
                total: 2500,
                lines: Json::default(),
                created_at: at,
                cancels_at: Some("2026-01-01T00:15:00Z".parse().unwrap()),
            },
            label: label.into(),
            heading_for: heading_for.map(Into::into),
            reason: reason.map(|code| Reason::new(code, "said by a worker at 10.0.0.7")),
            revision: 3,
            workflow: order::NAME.into(),
            state: None,
            fulfilled_at: None,
            fulfilled_by: None,
            sagas: None,
            updated_at: at,
        }
    }

    #[test]
    fn each_status_has_its_sentence_and_only_a_pending_order_an_end() {
        let mut said = String::new();
        for status in order::STATUSES.into_iter().filter(|status| *status != order::CANCELLING) {
            let Explanation { sentence, until } = explain(&view(status, None, None), false);
            assert_eq!(until.is_some(), status == order::PENDING, "{status}");
            said += &format!("{status}: {sentence}\n");
        }
        for (heading_for, reason) in [
            (order::CANCELLED, "pending_timeout"),
            (order::FAILED, "out_of_stock"),
            (order::PAYMENT_FAILED, "card_declined"),
            (order::SHIPMENT_FAILED, "carrier_refused"),
        ] {
            let sentence = explain(&view(order::CANCELLING, Some(heading_for), Some(reason)), false).sentence;
            said += &format!("heading for {heading_for}: {sentence}\n");
            said += &format!(
                "{heading_for}: {}\n",
                explain(&view(heading_for, None, Some(reason)), false).sentence
            );
        }
        said += &format!("parked: {}\n", explain(&view(order::PAID, None, None), true).sentence);
        assert!(!said.contains("10.0.0.7"), "{said}");
        insta::assert_snapshot!(said);
    }
}
