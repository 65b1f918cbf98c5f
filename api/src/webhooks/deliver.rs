//! Delivers webhooks.
//!
//! Each webhook that has something to send is leased by one process, which sends to it in a task of its own. So a
//! receiver gets [`SENDS_AT_ONCE`] requests at once from all processes together, a dead one delays no other, and an
//! order's events are sent in their order. A process that dies loses its leases soon; what it had sent and not recorded
//! is sent again, with the same id.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use amends_orders::{
    OrderStore,
    webhook_deliveries::{Attempt, DeliveryStatus, DeliveryStore, DueDelivery},
    webhooks::{LeasedWebhook, WEBHOOKS_MOST, WebhookStore},
};
use amends_postgres::Error;
use amends_webhooks::{AfterAttempt, RetryPolicy, SealingKeys, Sender, SigningSecret, sender::Message};
use chrono::Utc;
use futures::{FutureExt, StreamExt, stream};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{payload::payload, secret_place, traces, view::message_id};

/// How long a webhook is left to a process that has said nothing.
const WEBHOOK_LEASE: Duration = Duration::from_secs(15);
/// Interval between renewals of a lease.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Interval between looks for what is due, if nothing was planned by this process.
const DUE_POLL: Duration = Duration::from_millis(500);
/// Number of deliveries of a webhook that are read at once.
const DUE_BATCH: u32 = 16;
/// Number of requests to a receiver at once.
const SENDS_AT_ONCE: usize = 4;
/// How long a stopping process waits for answers.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a failure of the database, and the longest one.
const FAILURE_PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(10)];
/// The results of an attempt, as its metric names them.
const RESULTS: [&str; 4] = ["delivered", "retried", "failed", "gone"];

/// What delivers.
pub struct Deliverer {
    pub webhooks: WebhookStore,
    pub deliveries: DeliveryStore,
    pub orders: OrderStore,
    pub keys: Arc<SealingKeys>,
    pub sender: Sender,
    pub policy: RetryPolicy,
    /// Notified of new deliveries.
    pub planned: Arc<Notify>,
}

impl Deliverer {
    /// Delivers until `stop`. A panic ends only what it happened in.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        again_after_panics(&stop, || self.run_once(&stop)).await;
    }

    /// Leases webhooks and sends to them, until `stop`.
    async fn run_once(self: &Arc<Self>, stop: &CancellationToken) {
        let (mut serving, mut failures) = (JoinSet::new(), 0_u32);
        while !stop.is_cancelled() {
            let room = u32::try_from(WEBHOOKS_MOST).unwrap_or_default().saturating_sub(serving.len() as u32);
            // Each lease has an owner of its own: a task that has lost one notices, though this process has it again.
            let owner = Uuid::now_v7();
            match self.webhooks.lease(owner, WEBHOOK_LEASE, room).await {
                Ok(leased) => {
                    failures = 0;
                    for webhook in leased {
                        serving.spawn(Arc::clone(self).serve(owner, webhook, stop.clone()));
                    }
                }
                Err(error) => {
                    failures += 1;
                    metrics::counter!("amends_engine_loop_failures_total", "loop" => "webhooks").increment(1);
                    if failures.is_power_of_two() {
                        tracing::warn!(%error, failures, "webhooks cannot be read; it will be retried");
                    }
                    let most = FAILURE_PAUSES[0].saturating_mul(1 << failures.min(10));
                    pause(stop, most.min(FAILURE_PAUSES[1])).await;
                    continue;
                }
            }
            tokio::select! {
                () = self.planned.notified() => {}
                () = sleep(DUE_POLL) => {}
                () = stop.cancelled() => {}
                Some(ended) = serving.join_next() => note_panic(ended),
            }
        }
        while let Some(ended) = serving.join_next().await {
            note_panic(ended);
        }
    }

    /// Sends to a webhook what is due, and ends its lease.
    async fn serve(self: Arc<Self>, owner: Uuid, mut webhook: LeasedWebhook, stop: CancellationToken) {
        let id = webhook.id;
        loop {
            match self.renewing(owner, &webhook, &stop).await {
                // Lost: another process has it, or it is disabled.
                Served::All | Served::Lost => break,
                Served::Some => match self.webhooks.renew(owner, id, WEBHOOK_LEASE).await {
                    Ok(Some(renewed)) => webhook = renewed,
                    Ok(None) => break,
                    Err(error) => {
                        return tracing::warn!(webhook = %id, %error, "a lease could not be renewed");
                    }
                },
                // The lease ends by itself, so that it is not tried again at once.
                Served::Failed(error) => return tracing::warn!(webhook = %id, error, "nothing is delivered"),
            }
            if stop.is_cancelled() {
                break;
            }
        }
        if let Err(error) = self.webhooks.release(owner, id).await {
            tracing::debug!(webhook = %id, %error, "a lease ends by itself");
        }
    }

    /// Sends a batch, and renews the lease meanwhile.
    async fn renewing(&self, owner: Uuid, webhook: &LeasedWebhook, stop: &CancellationToken) -> Served {
        let batch = self.batch(webhook, stop);
        tokio::pin!(batch);
        loop {
            tokio::select! {
                served = &mut batch => return served,
                () = stop.cancelled() => {
                    // Requests that are under way may still be answered.
                    return timeout(STOP_PATIENCE, batch).await.unwrap_or(Served::All);
                }
                () = sleep(RENEW_EVERY) => {
                    match self.webhooks.renew(owner, webhook.id, WEBHOOK_LEASE).await {
                        Ok(Some(_)) => {}
                        Ok(None) => return Served::Lost,
                        Err(error) => tracing::warn!(webhook = %webhook.id, %error, "a lease could not be renewed"),
                    }
                }
            }
        }
    }

    /// Sends a batch: the events of an order one after another, several orders at once.
    async fn batch(&self, webhook: &LeasedWebhook, stop: &CancellationToken) -> Served {
        let due = match self.deliveries.due(webhook.id, DUE_BATCH).await {
            Ok(due) => due,
            Err(error) => return Served::Failed(error.to_string()),
        };
        let is_last = due.len() < DUE_BATCH as usize;
        if due.is_empty() {
            return Served::All;
        }
        let secrets = match self.secrets(webhook) {
            Ok(secrets) => secrets,
            Err(error) => {
                return Served::Failed(format!(
                    "its secret cannot be opened ({error}): see setting webhook_key"
                ));
            }
        };
        let secrets = &secrets;
        stream::iter(by_order(due))
            .for_each_concurrent(SENDS_AT_ONCE, |deliveries| async move {
                for delivery in deliveries {
                    if stop.is_cancelled() {
                        return;
                    }
                    if let Err(error) = self.attempt(webhook, secrets, &delivery).await {
                        let (id, order) = (delivery.id, delivery.order_id);
                        tracing::warn!(delivery = %id, ?order, %error, "an attempt could not be recorded; it will be repeated");
                    }
                }
            })
            .await;
        if is_last { Served::All } else { Served::Some }
    }

    /// Returns the secrets that sign now.
    fn secrets(
        &self,
        webhook: &LeasedWebhook,
    ) -> Result<Vec<SigningSecret>, amends_webhooks::secret::OpenError> {
        let place = secret_place(webhook.id);
        let sealed = [Some(&webhook.secret), webhook.previous_secret.as_ref()];
        sealed.into_iter().flatten().map(|sealed| self.keys.open_secret(&place, sealed)).collect()
    }

    /// Sends a delivery once, and records the result.
    async fn attempt(
        &self,
        webhook: &LeasedWebhook,
        secrets: &[SigningSecret],
        delivery: &DueDelivery,
    ) -> Result<(), Error> {
        let Some(body) = payload(&webhook.format, delivery, &self.orders).await? else {
            let attempt = Attempt {
                failure: Some("the order is past its retention".to_owned()),
                ..result(delivery.id, DeliveryStatus::Failed)
            };
            return self.deliveries.record(&attempt).await;
        };
        let span = traces::sending(webhook, delivery);
        let traceparent = span.as_ref().map(|span| span.context().to_string());
        let id = message_id(delivery.id);
        let traceparent = traceparent.as_deref();
        let message = Message { id: &id, timestamp: Utc::now().timestamp(), body: &body, traceparent };
        let began = Instant::now();
        let answer = self.sender.send(&webhook.url, secrets, message).await;
        traces::sent(span, &answer);
        metrics::histogram!("amends_webhook_attempt_seconds").record(began.elapsed().as_secs_f64());
        let tries = u32::try_from(delivery.tries).unwrap_or_default().saturating_add(1);
        let since_first = Duration::try_from_secs_f64(delivery.since_first).unwrap_or_default();
        let after = self.policy.judge(&answer, tries, since_first, rand::random_range(0..=1000));
        let (status, pause, counted) = match after {
            AfterAttempt::Delivered => (DeliveryStatus::Delivered, None, RESULTS[0]),
            AfterAttempt::Retry(pause) => (DeliveryStatus::Pending, Some(pause), RESULTS[1]),
            AfterAttempt::GivenUp => (DeliveryStatus::Failed, None, RESULTS[2]),
            AfterAttempt::Gone => (DeliveryStatus::Failed, None, RESULTS[3]),
        };
        metrics::counter!("amends_webhook_attempts_total", "result" => counted).increment(1);
        let attempt = match answer {
            Ok(answer) => Attempt {
                pause,
                answer_status: i16::try_from(answer.status).ok(),
                answer: Some(answer.body),
                ..result(delivery.id, status)
            },
            Err(fault) => Attempt { pause, failure: Some(fault.to_string()), ..result(delivery.id, status) },
        };
        self.deliveries.record(&attempt).await?;
        self.note(webhook.id, after).await
    }

    /// Notes on the webhook how an attempt went. One that has failed for too long, or is gone, is disabled.
    async fn note(&self, webhook: Uuid, after: AfterAttempt) -> Result<(), Error> {
        let patience = self.policy.patience;
        let long = humantime_serde::re::humantime::format_duration(patience);
        let (patience, reason) = match after {
            AfterAttempt::Delivered => return self.webhooks.note_success(webhook).await,
            AfterAttempt::Gone => (Duration::ZERO, "The receiver answered 410 Gone.".to_owned()),
            AfterAttempt::Retry(_) => (patience, format!("Every attempt has failed for {long}.")),
            // The delivery is as old as that; the failure was noted a moment after its first attempt.
            AfterAttempt::GivenUp => (patience.mul_f64(0.9), format!("Every attempt has failed for {long}.")),
        };
        if self.webhooks.note_failure(webhook, patience, &reason).await? {
            metrics::counter!("amends_webhooks_disabled_total").increment(1);
            tracing::warn!(%webhook, reason, "a webhook was disabled");
        }
        Ok(())
    }
}

/// How far the deliveries of a webhook are.
enum Served {
    /// Nothing more is due.
    All,
    /// There may be more.
    Some,
    /// The lease is lost.
    Lost,
    /// Nothing can be sent, and why.
    Failed(String),
}

/// Returns the result of an attempt, without an answer.
fn result(id: Uuid, status: DeliveryStatus) -> Attempt {
    Attempt { id, status, pause: None, answer_status: None, answer: None, failure: None }
}

/// Groups deliveries by order; within an order they stay in their order.
fn by_order(due: Vec<DueDelivery>) -> Vec<Vec<DueDelivery>> {
    let mut groups: Vec<Vec<DueDelivery>> = Vec::new();
    for delivery in due {
        let same = |group: &&mut Vec<DueDelivery>| {
            delivery.order_id.is_some() && group[0].order_id == delivery.order_id
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(delivery),
            None => groups.push(vec![delivery]),
        }
    }
    // The ids of an order's deliveries sort by their numbers, also where one was put off.
    groups.iter_mut().for_each(|group| group.sort_by_key(|delivery| delivery.id));
    groups
}

fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the deliveries to a webhook panicked; they go on once its lease has ended");
    }
}

/// Runs a loop until `stop`. After a panic, and a pause, it begins anew.
async fn again_after_panics<F: Future<Output = ()>>(stop: &CancellationToken, run: impl Fn() -> F) {
    while !stop.is_cancelled() {
        if AssertUnwindSafe(run()).catch_unwind().await.is_err() {
            tracing::error!("the delivery of webhooks panicked; it begins anew");
            pause(stop, FAILURE_PAUSES[1]).await;
        }
    }
}

async fn pause(stop: &CancellationToken, pause: Duration) {
    tokio::select! {
        () = sleep(pause) => {}
        () = stop.cancelled() => {}
    }
}

/// Seals secrets again that are sealed with an older key, so that the older key can be removed from the settings.
///
/// # Errors
/// The database's.
pub async fn reseal(webhooks: &WebhookStore, keys: &SealingKeys) -> Result<(), Error> {
    for sealed in webhooks.sealed_secrets().await? {
        let place = secret_place(sealed.id);
        let again = |text: &str| match keys.is_current(text) {
            true => Ok(text.to_owned()),
            false => keys.open(&place, text).map(|secret| keys.seal(&place, &secret)),
        };
        let previous_secret = sealed.previous_secret.as_deref().map(again).transpose();
        match (again(&sealed.secret), previous_secret) {
            (Ok(secret), Ok(previous_secret)) => {
                let after = amends_orders::webhooks::SealedSecrets { id: sealed.id, secret, previous_secret };
                if after != sealed {
                    webhooks.reseal(&sealed, &after).await?;
                }
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(webhook = %sealed.id, %error, "a webhook's secret cannot be opened: see setting webhook_key");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_panics_begins_anew_until_it_is_stopped() {
        let (stop, begun) = (CancellationToken::new(), AtomicU32::new(0));
        let run = || async {
            match begun.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => panic!("a test"),
                _ => stop.cancel(),
            }
        };
        again_after_panics(&stop, run).await;
        assert_eq!(begun.load(Ordering::SeqCst), 3);
    }
}
