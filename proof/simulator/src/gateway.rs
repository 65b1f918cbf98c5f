//! The external systems of the workers: a payment gateway and a carrier, with their own books. A call that is on its
//! way arrives, whatever happens to its caller, possibly much later.

use std::collections::BTreeMap;

use amends_payment::{self as payment, Charge, PaymentGateway, Receipt, Refund};
use amends_shipment::{self as shipment, Booking, Carrier, Parcel};
use rand::RngExt;
use uuid::Uuid;

use crate::{
    executor::{Micros, OneShot, SECOND},
    faults::Fault,
    store::short,
    world::{Handle, Site, WorldState},
};

/// A charge in the gateway's books.
#[derive(Debug, Clone)]
pub struct Charged {
    /// Id at the gateway.
    pub id: Uuid,
    /// Amount in minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// The payment method.
    pub method: String,
    /// Why it was declined, if it was.
    pub declined: Option<&'static str>,
    /// Time of the charge.
    pub at: Micros,
    /// Its refund as a whole: key and id.
    pub refund: Option<(Uuid, Uuid)>,
    /// Its partial refunds, by key: id and amount.
    pub back: BTreeMap<Uuid, (Uuid, i64)>,
}

/// Key and id of what an operator pays back by hand for a return or refund: once, whatever the engine has forgotten since.
pub fn refund_by_hand(saga: Uuid) -> Uuid {
    Uuid::new_v5(&saga, b"by hand")
}

/// A booking in the carrier's books.
#[derive(Debug, Clone)]
pub struct Booked {
    /// `None`: refused, or never to be answered.
    pub tracking: Option<String>,
    /// The destination.
    pub country: String,
    /// The key under which it was cancelled.
    pub cancelled: Option<Uuid>,
}

/// The books.
#[derive(Default)]
pub struct Outside {
    /// Charges by key.
    pub charges: BTreeMap<Uuid, Charged>,
    faults: BTreeMap<Uuid, u32>,
    /// Bookings by key.
    pub bookings: BTreeMap<Uuid, Booked>,
    cancellations: BTreeMap<Uuid, Uuid>,
}

/// The result of a call.
enum Call<T> {
    Answer(T),
    /// Out of order, and says so.
    Down,
}

impl Handle {
    /// Makes an external call. It arrives even if the caller no longer waits.
    async fn call<T: Send + 'static>(
        &self,
        changes: bool,
        what: &'static str,
        effect: impl FnOnce(&mut WorldState) -> (T, Micros) + Send + 'static,
    ) -> Call<T> {
        let slot = OneShot::default();
        {
            let mut state = self.state();
            let process = self.process;
            let mut there = state.rng.random_range(5_000..150_000);
            if state.unreachable(process, Site::Gateway).is_some() {
                state.note(process, || format!("{what}: sent into the void"));
            } else if state.strikes(Fault::GatewayDown, 0.05) {
                state.note(process, || format!("{what}: out of order"));
                let answer = slot.clone();
                state.later(there, move |_| answer.fill(Call::Down));
            } else {
                let silent = state.strikes(Fault::GatewaySilent, 0.05);
                if changes && state.strikes(Fault::GatewayLate, 0.05) {
                    there = state.plan.draw(Fault::GatewayLate, SECOND..600 * SECOND);
                    state.note(process, || format!("{what}: will arrive in {:.1} s", there as f64 / 1e6));
                }
                if state.strikes(Fault::CrashAtPort, 0.003) {
                    let down = state.plan.draw(Fault::CrashAtPort, 0..30 * SECOND);
                    state.note(process, || format!("dies calling: {what}"));
                    state.crash(process, down);
                }
                let answer = slot.clone();
                state.later(there, move |s| {
                    let (value, takes) = effect(s);
                    if silent {
                        s.note(process, || format!("{what}: done, and no answer"));
                    } else {
                        s.later(takes, move |_| answer.fill(Call::Answer(value)));
                    }
                });
            }
        }
        slot.await
    }
}

/// The payment gateway, as used by one instance.
pub struct SimGateway(pub Handle);

impl Charged {
    fn answer(&self) -> Result<Receipt, payment::Error> {
        match self.declined {
            Some(code) => Err(payment::Error::Declined { code: code.to_owned() }),
            None => Ok(Receipt { id: self.id, amount: self.amount, currency: self.currency.clone() }),
        }
    }
}

impl WorldState {
    fn charge(&mut self, charge: Charge) -> (Result<Receipt, payment::Error>, Micros) {
        let Charge { key, amount, currency, method } = charge;
        if method == "card_error_twice" {
            let calls = self.outside.faults.entry(key).or_default();
            *calls += 1;
            if *calls <= 2 {
                return (Err(payment::Error::Unavailable), 10_000);
            }
        }
        let declined = match method.as_str() {
            "card_declined" => Some("card_declined"),
            m if m.starts_with("card_") => None,
            _ => Some("unknown_method"),
        };
        let is_new = !self.outside.charges.contains_key(&key);
        if is_new {
            let (id, at) = (self.uuid(), self.now);
            self.note(crate::world::OUTSIDE, || {
                format!("charge {} {amount} {currency} {method}", short(key))
            });
            let charged = Charged {
                id,
                amount,
                currency,
                method: method.clone(),
                declined,
                at,
                refund: None,
                back: BTreeMap::new(),
            };
            self.outside.charges.insert(key, charged);
        }
        let takes = match method.as_str() {
            "card_slow" => 3 * SECOND,
            "card_lost_reply" if is_new => Micros::MAX / 4,
            _ => 10_000,
        };
        (self.outside.charges[&key].answer(), takes)
    }

    fn refund(&mut self, refund: Refund) -> Result<Receipt, payment::Error> {
        let refused = payment::Error::Declined { code: "refund_refused".into() };
        let id = self.uuid();
        let charge = self.outside.charges.get_mut(&refund.charge).filter(|c| c.declined.is_none());
        let Some(charge) = charge.filter(|c| c.method != "card_refund_refused") else { return Err(refused) };
        if let Some(amount) = refund.amount {
            let left = charge.amount - charge.back.values().map(|(_, amount)| amount).sum::<i64>();
            let fits = charge.refund.is_none() && amount <= left;
            if !fits && !charge.back.contains_key(&refund.key) {
                return Err(refused);
            }
            let (id, amount) = *charge.back.entry(refund.key).or_insert((id, amount));
            let receipt = Receipt { id, amount, currency: charge.currency.clone() };
            self.note(crate::world::OUTSIDE, || format!("{amount} back of {}", short(refund.charge)));
            return Ok(receipt);
        }
        if !charge.back.is_empty() {
            return Err(refused);
        }
        let (key, id) = *charge.refund.get_or_insert((refund.key, id));
        let receipt = Receipt { id, amount: charge.amount, currency: charge.currency.clone() };
        self.note(crate::world::OUTSIDE, || format!("refund of {}", short(refund.charge)));
        // A refund by hand has one id for both; no worker uses two keys for one refund.
        if key != refund.key && id != key {
            self.violations.push(format!("6 one_effect_a_command: {} refunded twice", refund.charge));
        }
        if key == refund.key { Ok(receipt) } else { Err(refused) }
    }
}

impl PaymentGateway for SimGateway {
    async fn charge(&self, charge: Charge) -> Result<Receipt, payment::Error> {
        match self.0.call(true, "charge", move |s| s.charge(charge)).await {
            Call::Answer(answer) => answer,
            Call::Down => Err(payment::Error::Unavailable),
        }
    }

    async fn refund(&self, refund: Refund) -> Result<Receipt, payment::Error> {
        match self.0.call(true, "refund", move |s| (s.refund(refund), 10_000)).await {
            Call::Answer(answer) => answer,
            Call::Down => Err(payment::Error::Unavailable),
        }
    }

    async fn look_up(&self, key: Uuid) -> Result<Option<Receipt>, payment::Error> {
        let look = move |s: &mut WorldState| {
            let charge = s.outside.charges.get(&key).map(Charged::answer);
            let part = s.outside.charges.values().find_map(|c| {
                let (id, amount) = *c.back.get(&key)?;
                Some(Ok(Receipt { id, amount, currency: c.currency.clone() }))
            });
            let refund = s.outside.charges.values().find_map(|c| {
                let (k, id) = c.refund?;
                let receipt = Receipt { id, amount: c.amount, currency: c.currency.clone() };
                (k == key).then_some(Ok(receipt))
            });
            (charge.or(refund).or(part).transpose(), 10_000)
        };
        match self.0.call(false, "look up", look).await {
            Call::Answer(answer) => answer,
            Call::Down => Err(payment::Error::Unavailable),
        }
    }
}

/// The carrier, as used by one instance.
pub struct SimCarrier(pub Handle);

const NEVER: Micros = Micros::MAX / 4;

impl Booked {
    fn answer(&self) -> (Result<Booking, shipment::Error>, Micros) {
        match &self.tracking {
            Some(tracking) => (Ok(Booking { tracking_number: tracking.clone() }), 10_000),
            None if self.country == "BV" => (Err(shipment::Error::NoAnswer), NEVER),
            None => (Err(shipment::Error::Refused), 10_000),
        }
    }
}

impl Carrier for SimCarrier {
    async fn book(&self, parcel: Parcel) -> Result<Booking, shipment::Error> {
        let book = move |s: &mut WorldState| {
            let id = s.uuid();
            let goes = !matches!(parcel.country.as_str(), "AQ" | "BV");
            let tracking = goes.then(|| format!("TRK-{}", id.simple()));
            if !s.outside.bookings.contains_key(&parcel.key) {
                s.note(crate::world::OUTSIDE, || format!("booking {} {}", short(parcel.key), parcel.country));
            }
            let booked = Booked { tracking, country: parcel.country, cancelled: None };
            s.outside.bookings.entry(parcel.key).or_insert(booked).answer()
        };
        match self.0.call(true, "book", book).await {
            Call::Answer(answer) => answer,
            Call::Down => Err(shipment::Error::NoAnswer),
        }
    }

    async fn cancel(&self, key: Uuid, booking: Uuid) -> Result<(), shipment::Error> {
        let cancel = move |s: &mut WorldState| {
            if let Some(booked) = s.outside.bookings.get_mut(&booking).filter(|b| b.tracking.is_some()) {
                booked.cancelled.get_or_insert(key);
                s.outside.cancellations.insert(key, booking);
                s.note(crate::world::OUTSIDE, || format!("cancelled {}", short(booking)));
            }
            ((), 10_000)
        };
        match self.0.call(true, "cancel", cancel).await {
            Call::Answer(()) => Ok(()),
            Call::Down => Err(shipment::Error::NoAnswer),
        }
    }

    async fn look_up(&self, key: Uuid) -> Result<Option<Booking>, shipment::Error> {
        let look = move |s: &mut WorldState| match s.outside.bookings.get(&key) {
            None => (Ok(None), 10_000),
            Some(booked) => {
                let (answer, takes) = booked.answer();
                (answer.map(Some), takes)
            }
        };
        match self.0.call(false, "look up", look).await {
            Call::Answer(answer) => answer,
            Call::Down => Err(shipment::Error::NoAnswer),
        }
    }

    async fn is_cancelled(&self, key: Uuid) -> Result<bool, shipment::Error> {
        let look = move |s: &mut WorldState| (s.outside.cancellations.contains_key(&key), 10_000);
        match self.0.call(false, "look up", look).await {
            Call::Answer(answer) => Ok(answer),
            Call::Down => Err(shipment::Error::NoAnswer),
        }
    }
}
