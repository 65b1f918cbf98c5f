//! From decided sends to messages: produced from memory, after the commit.

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

/// A committed saga and the commands it wants sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub saga: Arc<Saga>,
    pub sends: Vec<CommandToSend>,
    pub inputs: Inputs,
}

impl<S: SagaStore, K: Sink, C: Clock> Engine<S, K, C> {
    /// Sends the commands of committed sagas. If that fails nothing is lost: the rows still wait, and
    /// their `wake_at` comes.
    pub(super) async fn dispatch(&self, outgoing: Vec<Outgoing>) -> Result<(), Error> {
        if outgoing.iter().all(|outgoing| outgoing.sends.is_empty()) {
            return Ok(());
        }
        // The store mostly knows the time without being asked. Without it the messages go all the same.
        let sent_at = self.store.now().await.ok();
        let mut messages = Vec::new();
        for Outgoing { saga, sends, inputs } in &outgoing {
            self.messages(saga, sends, inputs, sent_at, &mut messages)?;
        }
        metrics::counter!("amends_engine_commands_total").increment(messages.len() as u64);
        let sent = self.sink.send(messages).await;
        let now = self.clock.monotonic();
        match &sent {
            Ok(()) if self.budget.sent(now) => tracing::info!("messages are sent again"),
            Ok(()) => {}
            Err(error) if self.budget.unsent(now) => {
                tracing::warn!(%error, "messages cannot be sent; repetitions wait until they can");
            }
            Err(_) => {}
        }
        Ok(sent?)
    }

    /// Sends the commands of sagas that the caller has just committed by itself (births).
    ///
    /// # Errors
    /// The transport's; nothing is lost by it.
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
                Command { sent_at, ..command(definition, saga, send, input, self.epoch.known(), &self.key) };
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

/// W3C Trace Context, version 00, sampled: the saga is the trace, and each command a span of it, by the half of its id
/// that differs.
fn traceparent(saga: Uuid, command: Uuid) -> String {
    format!("00-{}-{}-01", saga.simple(), &command.simple().to_string()[16..])
}
