//! Sends what is due: a loop a channel, so that a server that hangs delays no other channel. Each claims a bounded batch,
//! asks the api for the customer's address at that moment, hands the message over, and records how that ended.
//!
//! A sender that dies between the two leaves its claim, which lapses; the next one sends the message again, with the same
//! id. So a message is handed over at least once, and its receivers can recognise a second copy.

use std::{sync::Arc, time::Duration};

use amends_pool::Pool;
use amends_worker::Backoff;
use futures::future::join_all;
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    channels::{
        NotTaken, Unusable,
        email::{EmailSettings, Mailer},
        sms::{SmsSettings, SmsWebhook},
    },
    contact::{Addressee, OrderApi},
    event::Channel,
    list::MessageText,
    mask::masked,
    recorder::OpenChannels,
    store::{Claimed, NOT_CONFIGURED, NotificationStore, Settled},
    text::{self, Refunded},
    traces,
};

/// Number of messages of a channel that one sender handles at a time.
const SENDER_BATCH: i64 = 16;
/// How long one message may take: the api's answer, and the server's.
const DELIVERY_LONGEST: Duration = Duration::from_secs(60);
/// How long a claim lasts. A sender that has not settled it by then is taken for dead.
const CLAIM_LEASE: Duration = Duration::from_secs(120);
/// Pause after a read that found nothing due.
const SENDER_REST: Duration = Duration::from_secs(1);
/// Pause before the second attempt; each next one is twice as long. Jitter takes away up to half.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_LONGEST: Duration = Duration::from_secs(3600);

/// What messages are sent with.
#[derive(Debug, Clone)]
pub struct SendingSettings {
    /// E-mail; `None`: none are sent.
    pub email: Option<EmailSettings>,
    /// SMS; `None`: none are sent.
    pub sms: Option<SmsSettings>,
    /// The language of messages about orders that ask for none, one of [`crate::LOCALES`].
    pub locale: String,
    /// How long a message is tried.
    pub patience: Duration,
    /// Whether what cannot be sent for want of settings is kept, to be looked at.
    pub keeps_previews: bool,
}

impl SendingSettings {
    /// Returns on which channels messages are to be written at all.
    pub fn open(&self) -> OpenChannels {
        OpenChannels {
            email: self.email.is_some() || self.keeps_previews,
            sms: self.sms.is_some() || self.keeps_previews,
        }
    }
}

/// A way out of the deployment.
#[derive(Debug)]
enum Way {
    Email(Mailer),
    Sms(SmsWebhook),
    /// There is none.
    Nowhere,
}

impl Way {
    async fn send(&self, claimed: &Claimed, to: &str, message: &MessageText) -> Result<(), NotTaken> {
        match self {
            Self::Email(mailer) => mailer.send(claimed.id, to, message).await,
            Self::Sms(webhook) => webhook.send(claimed.id, to, &message.text).await,
            Self::Nowhere => Err(NotTaken::Refused(NOT_CONFIGURED.to_owned())),
        }
    }
}

/// Sends the messages of one channel.
#[derive(Debug)]
pub struct Sender {
    store: NotificationStore,
    api: OrderApi,
    channel: Channel,
    way: Way,
    locale: String,
    patience: Duration,
    keeps_previews: bool,
}

impl Sender {
    /// Creates a sender.
    ///
    /// # Errors
    /// A setting with which nothing can be sent.
    pub fn new(
        pool: impl Into<Pool>,
        api: OrderApi,
        channel: Channel,
        settings: &SendingSettings,
    ) -> Result<Self, Unusable> {
        let way = match channel {
            Channel::Email => settings.email.as_ref().map(|email| Mailer::new(email).map(Way::Email)),
            Channel::Sms => settings.sms.as_ref().map(|sms| SmsWebhook::new(sms).map(Way::Sms)),
        };
        Ok(Self {
            store: NotificationStore::new(pool),
            api,
            channel,
            way: way.transpose()?.unwrap_or(Way::Nowhere),
            locale: settings.locale.clone(),
            patience: settings.patience,
            keeps_previews: settings.keeps_previews,
        })
    }

    /// Sends until stopped. It looks for what is due now and then, and when `recorded` is notified.
    pub async fn run(self, recorded: Arc<Notify>, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        while !stop.is_cancelled() {
            let rest = match self.run_once().await {
                Ok(0) => {
                    backoff.reset();
                    SENDER_REST
                }
                Ok(_) => {
                    backoff.reset();
                    continue;
                }
                Err(error) => {
                    let channel = self.channel.as_str();
                    tracing::warn!(%error, channel, "notifications could not be read and will be sent later");
                    backoff.pause()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = recorded.notified() => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Handles a batch of what is due; returns the number of its messages.
    ///
    /// # Errors
    /// The database's: what was claimed is due again when the claim lapses.
    pub async fn run_once(&self) -> Result<usize, sqlx::Error> {
        let claimed = self.store.claim(self.channel, SENDER_BATCH, CLAIM_LEASE).await?;
        let settled = join_all(claimed.iter().map(|claimed| self.handle(claimed))).await;
        settled.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(claimed.len())
    }

    async fn handle(&self, claimed: &Claimed) -> Result<(), sqlx::Error> {
        let late = || self.later(claimed, "timeout".to_owned(), None);
        let span = traces::sending(claimed, self.channel);
        let settled = timeout(DELIVERY_LONGEST, self.deliver(claimed)).await.unwrap_or_else(|_| late());
        let outcome = match &settled {
            Settled::Sent { .. } => "sent",
            Settled::Later { .. } => "retried",
            Settled::Failed { .. } => "failed",
            Settled::Skipped { .. } => "skipped",
        };
        metrics::counter!("amends_notifications_total", "channel" => self.channel.as_str(), "outcome" => outcome)
            .increment(1);
        traces::sent(span, outcome);
        if let Settled::Failed { reason, .. } = &settled {
            let (order, channel) = (claimed.order_id, self.channel.as_str());
            tracing::warn!(id = %claimed.id, %order, channel, reason, "a notification failed for good");
        }
        self.store.settle(claimed, settled).await
    }

    async fn deliver(&self, claimed: &Claimed) -> Settled {
        let skipped = |reason| Settled::Skipped { reason, address: None, preview: None };
        if matches!(self.way, Way::Nowhere) && !self.keeps_previews {
            return skipped(NOT_CONFIGURED);
        }
        let addressee = match self.api.addressee(claimed.order_id).await {
            Ok(Some(addressee)) => addressee,
            Ok(None) => return skipped("no_order"),
            Err(error) => {
                tracing::debug!(%error, "the customer's contact cannot be asked");
                return self.later(claimed, "api_away".to_owned(), None);
            }
        };
        if addressee.is_erased {
            return skipped("erased");
        }
        let Some(to) = self.address(&addressee) else { return skipped("no_contact") };
        let address = masked(&to);
        let refunded = claimed.amount.zip(claimed.currency.clone());
        let refunded = refunded.map(|(amount, currency)| Refunded { amount, currency });
        let locale = match &addressee.locale {
            Some(asked) => text::locale_for(asked),
            None => &self.locale,
        };
        let written =
            text::written(&claimed.event_type, self.channel, locale, &addressee.order, refunded.as_ref());
        let message = match written {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(%error, "a notification cannot be written");
                return Settled::Failed { reason: "template".to_owned(), address: Some(address) };
            }
        };
        if matches!(self.way, Way::Nowhere) {
            let preview = serde_json::to_string(&message).ok();
            return Settled::Skipped { reason: NOT_CONFIGURED, address: Some(address), preview };
        }
        match self.way.send(claimed, &to, &message).await {
            Ok(()) => Settled::Sent { address },
            Err(NotTaken::Later(reason)) => self.later(claimed, reason, Some(address)),
            Err(NotTaken::Refused(reason)) => Settled::Failed { reason, address: Some(address) },
        }
    }

    fn address(&self, addressee: &Addressee) -> Option<String> {
        let contact = addressee.contact.as_ref()?;
        match self.channel {
            Channel::Email => contact.email.clone(),
            Channel::Sms => contact.phone.clone(),
        }
    }

    /// Tries again after a while, as long as there is patience.
    fn later(&self, claimed: &Claimed, reason: String, address: Option<String>) -> Settled {
        let pause = retry_pause(claimed.attempts, rand::random());
        let age = Duration::try_from_secs_f64(claimed.age).unwrap_or_default();
        match age + pause > self.patience {
            true => Settled::Failed { reason, address },
            false => Settled::Later { reason, address, pause },
        }
    }
}

/// Returns the pause after this many attempts; `jitter` is from 0 to 1.
fn retry_pause(attempts: i32, jitter: f64) -> Duration {
    let doublings = u32::try_from(attempts.max(1) - 1).unwrap_or_default().min(16);
    let whole = (RETRY_FIRST * 2_u32.pow(doublings)).min(RETRY_LONGEST);
    whole.mul_f64(1.0 - jitter / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_an_hour_and_jitter_takes_away_up_to_half() {
        let seconds = |attempts, jitter| retry_pause(attempts, jitter).as_secs_f64();
        assert_eq!([1, 2, 3, 11, 1000].map(|n| seconds(n, 0.0)), [5.0, 10.0, 20.0, 3600.0, 3600.0]);
        assert_eq!((seconds(1, 1.0), seconds(0, 0.0), seconds(-1, 0.0)), (2.5, 5.0, 5.0));
    }
}
