//! Receives events, decides what is sent on which channel, and records that in one transaction. Sending is the work of
//! others: the offsets move whether or not anything can be sent.

use std::{sync::Arc, time::Duration};

use amends_pool::Pool;
use amends_protocol::{
    trace::{OpenSpan, TraceContext},
    transport::{self, Batch, Inbound, Sink, Source},
    wire,
};
use tokio::sync::Notify;

use crate::{
    event::{Channel, Event},
    store::{NewNotification, NotificationStore},
    traces,
};

/// The longest text of an event, in bytes.
const TEXT_LONGEST: usize = 300;
const RECORDER_BATCH: usize = 500;
const RECORDER_PATIENCE: Duration = Duration::from_millis(500);

/// Why a batch was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database failed.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] transport::Error),
}

/// The channels on which messages are to be sent. On the others they are skipped at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenChannels {
    /// E-mails are sent, or kept to be looked at.
    pub email: bool,
    /// The same of SMS.
    pub sms: bool,
}

impl OpenChannels {
    fn has(self, channel: Channel) -> bool {
        match channel {
            Channel::Email => self.email,
            Channel::Sms => self.sms,
        }
    }
}

/// Records the messages that are to be sent.
pub struct Recorder<S, K> {
    store: NotificationStore,
    source: S,
    sink: K,
    open: OpenChannels,
    recorded: Arc<Notify>,
}

impl<S: Source, K: Sink> Recorder<S, K> {
    /// Creates a recorder that reads events from `source`; unreadable ones go to `sink` as dead letters. `recorded` is
    /// notified when there is something to send.
    pub fn new(pool: impl Into<Pool>, source: S, sink: K, open: OpenChannels, recorded: Arc<Notify>) -> Self {
        Self { store: NotificationStore::new(pool), source, sink, open, recorded }
    }

    /// Processes one batch; returns the number of its events. Offsets move after the commit.
    ///
    /// # Errors
    /// [`Error`]: the batch is received again.
    pub async fn run_once(&mut self) -> Result<usize, Error> {
        let batch = self.source.receive(RECORDER_BATCH, RECORDER_PATIENCE).await?;
        if batch.messages.is_empty() {
            return Ok(0);
        }
        match self.record(&batch).await {
            Ok(()) => {
                self.source.commit(batch.receipt)?;
                Ok(batch.messages.len())
            }
            Err(error) => {
                self.source.rewind()?;
                Err(error)
            }
        }
    }

    async fn record(&self, batch: &Batch) -> Result<(), Error> {
        let (mut new, mut spans) = (Vec::new(), Vec::new());
        let mut dead: Vec<(&Inbound, String)> = Vec::new();
        for message in &batch.messages {
            match readable(message) {
                Ok(event) if event.notifies_customers() => {
                    let span = traces::processing(message, &event);
                    let context = span.as_ref().map(OpenSpan::context);
                    spans.extend(span);
                    new.extend(Channel::ALL.map(|channel| self.notification(&event, channel, context)));
                }
                Ok(_) => {}
                Err(why) => dead.push((message, why)),
            }
        }
        if !new.is_empty() {
            let recorded = self.store.record(new).await?;
            metrics::counter!("amends_notifications_recorded_total").increment(recorded);
            spans.into_iter().for_each(OpenSpan::end);
            self.recorded.notify_waiters();
        }
        for (message, why) in dead {
            self.sink.dead_letter(message, &why).await?;
        }
        Ok(())
    }

    fn notification(&self, event: &Event, channel: Channel, trace: Option<TraceContext>) -> NewNotification {
        NewNotification {
            id: event.notification(channel),
            order_id: event.data.order_id,
            event_id: event.id.clone(),
            event_type: event.r#type.clone(),
            channel,
            amount: event.data.amount,
            currency: event.data.currency.clone(),
            traceparent: trace.map(|context| context.to_string()),
            is_to_be_sent: self.open.has(channel),
        }
    }
}

/// Reads an event; or returns why it cannot be read.
fn readable(message: &Inbound) -> Result<Event, String> {
    let event: Event = wire::read(&message.bytes).map_err(|why| why.to_string())?;
    let currency = event.data.currency.as_deref().map_or(0, str::len);
    if event.id.len().max(event.r#type.len()).max(currency) > TEXT_LONGEST {
        return Err(format!("id, type, currency: longer than {TEXT_LONGEST} bytes"));
    }
    Ok(event)
}
