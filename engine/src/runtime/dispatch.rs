//! Sends decided commands as messages, from memory, after the commit.

use std::sync::Arc;

use amends_protocol::{
    Command,
    trace::OpenSpan,
    transport::{Outbound, Placement, Sink},
    wire,
};
use chrono::{DateTime, Utc};

use super::{
    Engine, Error,
    counts::CommandCounts,
    traces::{self, API, Causes, unrecorded},
};
use crate::{
    core::{CommandToSend, Input, Needs, Saga, command},
    port::{Clock, Inputs, SagaStore},
};

/// A committed saga and the commands to send.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub saga: Arc<Saga>,
    pub sends: Vec<CommandToSend>,
    pub inputs: Inputs,
}

impl<S: SagaStore, K: Sink, C: Clock> Engine<S, K, C> {
    /// Sends the commands of committed sagas. If that fails nothing is lost: the rows still wait, and their `wake_at`
    /// comes.
    pub(super) async fn dispatch(&self, outgoing: Vec<Outgoing>, causes: &Causes) -> Result<(), Error> {
        if outgoing.iter().all(|outgoing| outgoing.sends.is_empty()) {
            return Ok(());
        }
        // The store usually knows the time without a query. Without it the messages are sent all the same.
        let sent_at = self.store.now().await.ok();
        let (mut messages, mut spans, mut counts) = (Vec::new(), Vec::new(), CommandCounts::default());
        for Outgoing { saga, sends, inputs } in &outgoing {
            self.messages(saga, sends, inputs, sent_at, causes, (&mut messages, &mut spans))?;
            self.count(saga, sends, sent_at, &mut counts);
        }
        counts.record();
        let sent = self.sink.send(messages).await;
        traces::end(spans, sent.is_ok());
        let now = self.clock.monotonic();
        match &sent {
            Ok(()) if self.budget.sent(now) => tracing::info!("messages can be sent again"),
            Ok(()) => {}
            Err(error) if self.budget.unsent(now) => {
                tracing::warn!(%error, "messages cannot be sent; repetitions wait until they can");
            }
            Err(_) => {}
        }
        Ok(sent?)
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
        self.dispatch(outgoing, &Causes::none(API)).await
    }

    fn count(
        &self,
        saga: &Saga,
        sends: &[CommandToSend],
        sent_at: Option<DateTime<Utc>>,
        counts: &mut CommandCounts,
    ) {
        if let Some(definition) = self.catalog.get(&saga.workflow, saga.workflow_version) {
            for send in sends {
                counts.add(&definition.steps[send.step], send, sent_at);
            }
        }
    }

    fn messages(
        &self,
        saga: &Saga,
        sends: &[CommandToSend],
        inputs: &Inputs,
        sent_at: Option<DateTime<Utc>>,
        causes: &Causes,
        (messages, spans): (&mut Vec<Outbound>, &mut Vec<OpenSpan>),
    ) -> Result<(), Error> {
        let definition = self
            .catalog
            .get(&saga.workflow, saga.workflow_version)
            .ok_or_else(|| Error::UnknownWorkflow(format!("{}@{}", saga.workflow, saga.workflow_version)))?;
        for send in sends {
            let step = &definition.steps[send.step];
            let personal = inputs.personal.as_ref().filter(|_| step.needs == Needs::Personal);
            let input = Input { data: &inputs.data, personal };
            let command =
                Command { sent_at, ..command(definition, saga, send, input, self.epoch, &self.key) };
            let topic = format!("{}.commands", step.participant);
            let span = causes.sending(saga, &command, &topic);
            let traceparent = span.as_ref().map_or_else(|| unrecorded(saga, &command), OpenSpan::context);
            spans.extend(span);
            messages.push(Outbound {
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
