//! The business logic: pay, and refund.

use std::time::Duration;

use amends_pool::Pool;
use amends_protocol::{Exposure, Json, Kind, Reason, negated};
use amends_worker::{Answer, ExternalExecutor, LookUp, Participant, Port, Settings, Work, store};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::{
    gateway::{Charge, Error, PaymentGateway, Receipt, Refund},
    sandbox::SandboxGateway,
};

/// The payment executor, over a gateway.
#[derive(Debug)]
pub struct Payments<G> {
    gateway: G,
}

impl<G> Payments<G> {
    /// Creates an executor that pays through this gateway.
    pub fn new(gateway: G) -> Self {
        Self { gateway }
    }
}

impl Participant for Payments<SandboxGateway> {
    fn over(pool: Pool) -> Self {
        Self::new(SandboxGateway::new(pool))
    }

    fn settings() -> Settings {
        crate::settings()
    }

    async fn expire_books(pool: &Pool, retention: Duration) -> Result<u64, store::Error> {
        crate::expire_books(pool, retention).await
    }
}

/// The step that captures money.
const PAY: &str = "pay";
/// The step that pays part of it back.
const REFUND: &str = "refund";

#[derive(Deserialize)]
struct Pay {
    amount: i64,
    currency: String,
    method: String,
}

/// A partial refund. Its lines are for providers that need them.
#[derive(Deserialize)]
struct PayBack {
    charge: Uuid,
    amount: i64,
    currency: String,
}

impl<G: PaymentGateway> Payments<G> {
    /// Pays back part of a charge. Nothing costs nothing, and needs no gateway.
    async fn refund(&self, work: &Work) -> Answer {
        let Ok(PayBack { charge, amount, currency }) = work.command.payload.read() else {
            return Answer::failed_for_good("bad_payload", "not a charge, an amount and a currency");
        };
        if amount < 0 || !is_currency(&currency) {
            return Answer::failed_for_good("bad_payload", "the amount or the currency is out of range");
        }
        if amount == 0 {
            return Answer::succeeded(None, Vec::new());
        }
        let refund = Refund { key: work.command.command_id, charge, amount: Some(amount) };
        match self.gateway.refund(refund).await {
            Ok(receipt) => paid_back(receipt),
            Err(error) => answer(Err(error)),
        }
    }
}

impl<G: PaymentGateway> ExternalExecutor for Payments<G> {
    fn port(&self) -> Port {
        Port {
            idempotent: true,
            first_answer_binds: true,
            can_look_up: true,
            can_void: false,
            keeps_keys_for: Duration::MAX,
        }
    }

    async fn execute(&self, work: &Work) -> Answer {
        match work.command.step.as_str() {
            PAY => {}
            REFUND => return self.refund(work).await,
            _ => return Answer::failed_for_good("unknown_step", "payment knows pay and refund"),
        }
        let Ok(Pay { amount, currency, method }) = work.command.payload.read() else {
            return Answer::failed_for_good("bad_payload", "not an amount, a currency and a method");
        };
        if amount < 0 || !is_currency(&currency) {
            return Answer::failed_for_good("bad_payload", "the amount or the currency is out of range");
        }
        answer(self.gateway.charge(Charge { key: work.command.command_id, amount, currency, method }).await)
    }

    async fn undo(&self, work: &Work) -> Answer {
        if work.command.step != PAY {
            return Answer::failed_for_good("no_compensation", "what was paid back is paid back");
        }
        let refund = Refund { key: work.command.command_id, charge: work.target(), amount: None };
        match self.gateway.refund(refund).await {
            Ok(receipt) => refunded(work, &receipt),
            Err(error) => answer(Err(error)),
        }
    }

    async fn look_up(&self, work: &Work) -> LookUp {
        match self.gateway.look_up(work.command.command_id).await {
            Ok(None) => LookUp::Nothing,
            Ok(Some(receipt)) if work.command.kind == Kind::Compensate => {
                LookUp::Found(refunded(work, &receipt))
            }
            Ok(Some(receipt)) if work.command.step == REFUND => LookUp::Found(paid_back(receipt)),
            Ok(Some(receipt)) => LookUp::Found(answer(Ok(receipt))),
            // A decline is an answer under this key; any other error means that the look-up failed.
            Err(Error::Declined { code }) => LookUp::Found(answer(Err(Error::Declined { code }))),
            Err(Error::Unavailable) => LookUp::NoAnswer(Reason::new("gateway_unavailable", "")),
            Err(Error::NoAnswer) => LookUp::NoAnswer(Reason::new("no_answer", "")),
        }
    }
}

fn is_currency(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase())
}

fn answer(charged: Result<Receipt, Error>) -> Answer {
    match charged {
        Ok(Receipt { id, amount, currency }) => {
            let captured = Exposure::new("money_captured", currency, amount);
            Answer::succeeded(Json::of(&json!({ "chargeId": id })).ok(), some(captured))
        }
        Err(Error::Declined { code }) => Answer::Refused(Reason::new(code, "")),
        Err(Error::Unavailable) => {
            Answer::failed_for_now("gateway_unavailable", "the gateway is out of order")
        }
        Err(Error::NoAnswer) => Answer::unknown("no_answer"),
    }
}

fn refunded(work: &Work, receipt: &Receipt) -> Answer {
    Answer::succeeded(Json::of(&json!({ "refundId": receipt.id })).ok(), negated(&work.held))
}

/// What was paid back stays paid back.
fn paid_back(Receipt { id, amount, currency }: Receipt) -> Answer {
    let back = Exposure::new("money_refunded", currency, amount);
    Answer::succeeded(Json::of(&json!({ "refundId": id })).ok(), some(back))
}

/// An order that costs nothing holds nothing.
fn some(exposure: Exposure) -> Vec<Exposure> {
    if exposure.amount == 0 { Vec::new() } else { vec![exposure] }
}
