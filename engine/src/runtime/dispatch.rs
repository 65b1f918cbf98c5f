//! Sends decided commands as messages, from memory, after the commit.

use std::sync::Arc;

use amends_protocol::{
    Command,
    transport::{Outbound, Placement, Sink},
    wire,
};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Engine, Error};
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
    pub(super) async fn dispatch(&self, outgoing: Vec<Outgoing>) -> Result<(), Error> {
        if outgoing.iter().all(|outgoing| outgoing.sends.is_empty()) {
            return Ok(());
        }
        // The store usually knows the time without a query. Without it the messages are sent all the same.
        let sent_at = self.store.now().await.ok();
        let mut messages = Vec::new();
        for Outgoing { saga, sends, inputs } in &outgoing {
            self.messages(saga, sends, inputs, sent_at, &mut messages)?;
        }
        metrics::counter!("amends_engine_commands_total").increment(messages.len() as u64);
        let sent = self.sink.send(messages).await;
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
        self.dispatch(
            births
                .into_iter()
                .map(|(saga, sends, inputs)| Outgoing { saga: Arc::new(saga), sends, inputs })
                .collect(),
        )
        .await
    }

    fn messages(
        &self,
        saga: &Saga,
        sends: &[CommandToSend],
        inputs: &Inputs,
        sent_at: Option<DateTime<Utc>>,
        into: &mut Vec<Outbound>,
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
            into.push(Outbound {
                topic: format!("{}.commands", step.participant),
                placement: Placement::Together,
                key: saga.id,
                traceparent: Some(traceparent(saga.id, command.command_id)),
                bytes: wire::write(&command),
            });
        }
        Ok(())
    }
}

/// Returns a W3C Trace Context, version 00, sampled: the saga is the trace, and each command is a span, identified by
/// the half of its id that differs.
fn traceparent(saga: Uuid, command: Uuid) -> String {
    format!("00-{}-{}-01", saga.simple(), &command.simple().to_string()[16..])
}
