//! Places orders in a database with several homes: their keys first, then the orders, home by home. A home that fails
//! stops no order of another.

use std::{collections::HashMap, time::Duration};

use amends_engine::core::Change;
use amends_postgres::{
    Database, Error,
    homes::{Answers, answers_of_homes},
};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    OrderStore,
    claims::{self, Claim},
    keys,
    order::{NewOrder, OrderRow, Placed},
};

/// Pauses before a key whose order does not exist is looked at again. Another process usually places the order within
/// milliseconds.
const CLAIM_PAUSES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
    Duration::from_millis(160),
];

/// Results by the orders' ids.
type Results = HashMap<Uuid, Placed>;

impl OrderStore {
    /// Places orders; returns a result for each, in order.
    ///
    /// # Errors
    /// [`Error::Locked`]: nothing was placed.
    pub(crate) async fn place_in_homes(
        &self,
        now: DateTime<Utc>,
        orders: &[NewOrder],
        birth: &impl Fn(&NewOrder, DateTime<Utc>) -> Change,
    ) -> Result<Vec<Placed>, Error> {
        let mut results = Results::with_capacity(orders.len());
        let mut open: Vec<&NewOrder> = orders.iter().collect();
        let mut pauses = CLAIM_PAUSES.into_iter();
        loop {
            self.place_open(now, &open, birth, &mut results).await?;
            open.retain(|order| !results.contains_key(&order.id));
            if open.is_empty() {
                break;
            }
            let Some(pause) = pauses.next() else { break };
            tokio::time::sleep(pause).await;
        }
        let result = |order: &NewOrder| {
            results.remove(&order.id).unwrap_or_else(|| {
                let why = format!("the order of the key of {} is just being placed, or was lost", order.id);
                Placed::Failed(Error::Unavailable(why))
            })
        };
        Ok(orders.iter().map(result).collect())
    }

    /// Places what can be placed now, and finds the orders of keys that others have. The rest stays without a result.
    async fn place_open(
        &self,
        now: DateTime<Utc>,
        open: &[&NewOrder],
        birth: &impl Fn(&NewOrder, DateTime<Utc>) -> Change,
        results: &mut Results,
    ) -> Result<(), Error> {
        let asking = keys::first_of_each(open);
        let claims = claims::claim(self.database(), &asking).await?;
        // Orders with the same key share its claim.
        let mut by_key: HashMap<(&str, &str), &Result<Claim, Error>> = HashMap::new();
        for order in &asking {
            if let (Some(key), Some(claim)) = (key(order), claims.get(&order.id)) {
                by_key.insert(key, claim);
            }
        }
        let (mut mine, mut others) = (Vec::new(), Vec::new());
        for order in open.iter().copied() {
            match key(order).map(|key| by_key.get(&key).copied()) {
                None => mine.push(order),
                Some(Some(Ok(claim))) if claim.named == order.id => mine.push(order),
                Some(Some(Ok(claim))) => others.push((order, claim)),
                Some(Some(Err(error))) => _ = results.insert(order.id, Placed::Failed(error.clone())),
                Some(None) => {}
            }
        }
        self.place_mine(now, mine, birth, results).await?;
        let named: Vec<Uuid> = others.iter().map(|(_, claim)| claim.named).collect();
        let found = claims::orders(self.database(), &named).await?;
        let mut replaced = Vec::new();
        for (order, claim) in others {
            if let Some(row) = found.get(&claim.named) {
                results.insert(order.id, known(order, claim, row));
            } else if !results.contains_key(&claim.named)
                && claims::replace(self.database(), order, claim.named, now).await.unwrap_or_default()
            {
                replaced.push(order);
            }
        }
        self.place_mine(now, replaced, birth, results).await
    }

    /// Places orders without a key, and those that have theirs.
    async fn place_mine(
        &self,
        now: DateTime<Utc>,
        orders: Vec<&NewOrder>,
        birth: &impl Fn(&NewOrder, DateTime<Utc>) -> Change,
        results: &mut Results,
    ) -> Result<(), Error> {
        let Database { homes, .. } = self.database();
        let parts = homes.divide(orders, |order| homes.of(order.id));
        let place = |home, orders: Vec<_>| async move {
            let placed = self.place_in_home(home, now, orders.clone(), birth).await?;
            Ok(orders.into_iter().zip(placed).collect::<Vec<_>>())
        };
        let Answers { answers, failed } = answers_of_homes(*homes, parts, place).await?;
        let refused = failed.iter().all(|(_, error)| matches!(error, Error::Locked(_)));
        let nothing_placed = answers.is_empty() && results.is_empty() && refused;
        let failed_alike = failed.into_iter().flat_map(|(orders, error)| {
            orders.into_iter().map(move |order| (order, Placed::Failed(error.clone())))
        });
        let (mut free, mut first_error) = (Vec::new(), None);
        for (order, placed) in answers.into_iter().flatten().chain(failed_alike) {
            if placed.frees_key() {
                free.push(order);
            }
            if let Placed::Failed(error) = &placed {
                first_error.get_or_insert_with(|| error.clone());
            }
            results.insert(order.id, placed);
        }
        if !free.is_empty() {
            claims::release(self.database(), &free).await;
        }
        match first_error.filter(|_| nothing_placed) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

fn key(order: &NewOrder) -> Option<(&str, &str)> {
    order.idempotency.as_ref().map(|(key, _)| (order.subject.as_str(), key.as_str()))
}

/// The result for a key that another order has.
fn known(order: &NewOrder, claim: &Claim, row: &OrderRow) -> Placed {
    let is_same = order.idempotency.as_ref().is_some_and(|(_, own)| claim.fingerprint == own);
    if is_same { Placed::Replayed(Box::new(row.clone())) } else { Placed::KeyReused }
}
