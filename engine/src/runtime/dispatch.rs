//! Sends decided commands as messages, from memory, after the commit: each participant's by themselves, because each has
//! a topic of its own, and one that cannot be produced to must not hold up the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use amends_protocol::{
    Command,
    trace::OpenSpan,
    transport::{self, Outbound, Placement, Sink},
    wire,
};
use chrono::{DateTime, Utc};
use futures::future::{Either, join_all, select};

use super::{
    Engine, Error,
    budget::Sending,
    counts::CommandCounts,
    traces::{self, API, Causes, unrecorded},
};
use crate::{
    core::{CommandToSend, Input, Needs, Saga, command},
    port::{Clock, Inputs, SagaStore},
};

/// How long a try waits for the broker while it is known to accept nothing for a participant: the client takes ten
/// seconds to report a failure.
const UNSENT_PATIENCE: Duration = Duration::from_secs(2);

/// A committed saga and the commands to send.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub saga: Arc<Saga>,
    pub sends: Vec<CommandToSend>,
    pub inputs: Inputs,
}

/// What a dispatch could not send. Nothing of it is lost: the rows still wait, and their `wake_at` comes.
#[derive(Debug, Default)]
#[must_use]
pub(super) struct NotSent {
    /// To whom.
    pub participants: BTreeSet<&'static str>,
    /// The first error.
    error: Option<transport::Error>,
    /// Whether another participant's commands were sent.
    is_part: bool,
}

impl NotSent {
    /// Returns the error if anything was not sent.
    pub fn any(self) -> Result<(), transport::Error> {
        self.error.map_or(Ok(()), Err)
    }

    /// Returns the error if nothing was sent.
    pub fn all(self) -> Result<(), transport::Error> {
        if self.is_part { Ok(()) } else { self.any() }
    }
}

/// The commands to one participant.
#[derive(Default)]
struct ToParticipant {
    messages: Vec<Outbound>,
    spans: Vec<OpenSpan>,
    counts: CommandCounts,
}

impl<S: SagaStore, K: Sink, C: Clock> Engine<S, K, C> {
    /// Sends the commands of committed sagas, and returns what could not be sent.
    ///
    /// # Errors
    /// [`Error::UnknownWorkflow`]; nothing was sent.
    pub(super) async fn dispatch(&self, outgoing: Vec<Outgoing>, causes: &Causes) -> Result<NotSent, Error> {
        if outgoing.iter().all(|outgoing| outgoing.sends.is_empty()) {
            return Ok(NotSent::default());
        }
        // The store usually knows the time without a query. Without it the messages are sent all the same.
        let sent_at = self.store.now().await.ok();
        let mut by_participant = BTreeMap::new();
        for Outgoing { saga, sends, inputs } in &outgoing {
            self.messages(saga, sends, inputs, sent_at, causes, &mut by_participant)?;
        }
        let sending = by_participant.into_iter().map(|(participant, to)| self.send_to(participant, to));
        let mut not_sent = NotSent::default();
        for (participant, sent) in join_all(sending).await {
            match sent {
                Ok(()) => not_sent.is_part = true,
                Err(error) => {
                    not_sent.participants.insert(participant);
                    not_sent.error.get_or_insert(error);
                }
            }
        }
        Ok(not_sent)
    }

    /// Sends one participant's commands, unless nothing can be sent to it and another try is not due yet.
    async fn send_to(
        &self,
        participant: &'static str,
        ToParticipant { messages, spans, counts }: ToParticipant,
    ) -> (&'static str, Result<(), transport::Error>) {
        let sent = match self.budget.sending(participant, self.clock.monotonic()) {
            Sending::Later => {
                traces::end(spans, false);
                let why = format!("nothing can be sent to {participant}; its commands go out when it can");
                return (participant, Err(transport::Error(why)));
            }
            Sending::Usual => self.sink.send(messages).await,
            Sending::Trial => {
                let sending = pin!(self.sink.send(messages));
                match select(sending, pin!(self.clock.sleep(UNSENT_PATIENCE))).await {
                    Either::Left((sent, _)) => sent,
                    Either::Right(_) => Err(transport::Error("no answer".to_owned())),
                }
            }
        };
        counts.record();
        traces::end(spans, sent.is_ok());
        let now = self.clock.monotonic();
        match &sent {
            Ok(()) if self.budget.sent(participant, now) => {
                tracing::info!(participant, "messages can be sent again");
            }
            Ok(()) => {}
            Err(error) if self.budget.unsent(participant, now) => {
                tracing::warn!(participant, %error, "messages cannot be sent; repetitions wait until they can");
            }
            Err(_) => {}
        }
        (participant, sent)
    }

    /// Sends the commands of sagas that the caller has just committed itself (births).
    ///
    /// # Errors
    /// The transport's; nothing is lost.
    pub async fn send(&self, births: Vec<(Saga, Vec<CommandToSend>, Inputs)>) -> Result<(), Error> {
        let outgoing = births
            .into_iter()
            .map(|(saga, sends, inputs)| Outgoing { saga: Arc::new(saga), sends, inputs })
            .collect();
        Ok(self.dispatch(outgoing, &Causes::none(API)).await?.any()?)
    }

    fn messages(
        &self,
        saga: &Saga,
        sends: &[CommandToSend],
        inputs: &Inputs,
        sent_at: Option<DateTime<Utc>>,
        causes: &Causes,
        by_participant: &mut BTreeMap<&'static str, ToParticipant>,
    ) -> Result<(), Error> {
        let definition = self
            .catalog
            .get(&saga.workflow, saga.workflow_version)
            .ok_or_else(|| Error::UnknownWorkflow(format!("{}@{}", saga.workflow, saga.workflow_version)))?;
        for send in sends {
            let step = &definition.steps[send.step];
            let to = by_participant.entry(step.participant).or_default();
            let personal = inputs.personal.as_ref().filter(|_| step.needs == Needs::Personal);
            let input = Input { data: &inputs.data, personal };
            let command =
                Command { sent_at, ..command(definition, saga, send, input, self.epoch, &self.key) };
            let topic = format!("{}.commands", step.participant);
            let span = causes.sending(saga, &command, &topic);
            let traceparent = span.as_ref().map_or_else(|| unrecorded(saga, &command), OpenSpan::context);
            to.spans.extend(span);
            to.counts.add(step, send, sent_at);
            to.messages.push(Outbound {
                topic,
                placement: Placement::Together,
                key: saga.id,
                traceparent: Some(traceparent.to_string()),
                bytes: wire::write(&command),
            });
        }
        Ok(())
    }
}
