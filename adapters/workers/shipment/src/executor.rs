//! The business logic: ship, and cancel the booking.

use std::time::Duration;

use amends_pool::Pool;
use amends_protocol::{Exposure, Json, Kind, Reason, negated};
use amends_worker::{Answer, ExternalExecutor, LookUp, Participant, Port, Settings, Work, store};
use serde::Deserialize;
use serde_json::json;

use crate::{
    carrier::{Booking, Carrier, Error, Parcel},
    sandbox::SandboxCarrier,
};

/// The shipment executor, over a carrier.
#[derive(Debug)]
pub struct Shipments<C> {
    carrier: C,
}

impl<C> Shipments<C> {
    /// Creates an executor that ships with this carrier.
    pub fn new(carrier: C) -> Self {
        Self { carrier }
    }
}

impl Participant for Shipments<SandboxCarrier> {
    fn over(pool: Pool) -> Self {
        Self::new(SandboxCarrier::new(pool))
    }

    fn settings() -> Settings {
        crate::settings()
    }

    async fn expire_books(pool: &Pool, retention: Duration) -> Result<u64, store::Error> {
        crate::expire_books(pool, retention).await
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ship {
    shipping_address: Address,
}

/// The part of the address that the built-in carrier needs; a real one would read all of it.
#[derive(Deserialize)]
struct Address {
    country: String,
}

impl<C: Carrier> ExternalExecutor for Shipments<C> {
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
        if work.command.step != "ship" {
            return Answer::failed_for_good("unknown_step", "shipment knows ship");
        }
        let Ok(Ship { shipping_address: Address { country } }) = work.command.payload.read() else {
            return Answer::failed_for_good("bad_payload", "no shipping address");
        };
        if country.len() != 2 || !country.bytes().all(|b| b.is_ascii_uppercase()) {
            return Answer::failed_for_good("bad_payload", "the country is not two capital letters");
        }
        answer(self.carrier.book(Parcel { key: work.command.command_id, country }).await)
    }

    async fn undo(&self, work: &Work) -> Answer {
        match self.carrier.cancel(work.command.command_id, work.target()).await {
            Ok(()) => cancelled(work),
            Err(error) => answer(Err(error)),
        }
    }

    async fn look_up(&self, work: &Work) -> LookUp {
        let key = work.command.command_id;
        if work.command.kind == Kind::Compensate {
            return match self.carrier.is_cancelled(key).await {
                Ok(true) => LookUp::Found(cancelled(work)),
                Ok(false) => LookUp::Nothing,
                Err(_) => LookUp::NoAnswer(Reason::new("no_answer", "")),
            };
        }
        match self.carrier.look_up(key).await {
            Ok(None) => LookUp::Nothing,
            Ok(Some(booking)) => LookUp::Found(answer(Ok(booking))),
            Err(Error::Refused) => LookUp::Found(answer(Err(Error::Refused))),
            Err(Error::NoAnswer) => LookUp::NoAnswer(Reason::new("no_answer", "")),
        }
    }
}

fn answer(booked: Result<Booking, Error>) -> Answer {
    match booked {
        Ok(Booking { tracking_number }) => Answer::succeeded(
            Json::of(&json!({ "trackingNumber": tracking_number })).ok(),
            vec![Exposure::new("label_bought", "label", 1)],
        ),
        Err(Error::Refused) => Answer::refused("carrier_refused", "the carrier does not go there"),
        Err(Error::NoAnswer) => Answer::unknown("no_answer"),
    }
}

fn cancelled(work: &Work) -> Answer {
    Answer::succeeded(None, negated(&work.held))
}
