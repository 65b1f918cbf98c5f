//! The broker: one topic of replies, and the commands and dead letters that were sent.

use std::time::Duration;

use amends_protocol::transport::{self, Assignment, Batch, Inbound, Outbound, Sink, Source};
use amends_protocol::wire;

use super::World;

impl Sink for World {
    async fn send(&self, messages: Vec<Outbound>) -> Result<(), transport::Error> {
        if std::mem::take(&mut self.state().dies_before_send) {
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        if state.send_fails > 0 {
            state.send_fails -= 1;
            return Err(transport::Error("the broker is away".to_owned()));
        }
        if let Some(message) = messages.iter().find(|message| state.unusable.contains(&message.topic)) {
            let why = format!("there is no topic {}", message.topic);
            state.refused += 1;
            return Err(transport::Error(why));
        }
        state.log.push(format!("send {}", messages.len()));
        state.sent.extend(messages.iter().map(|m| wire::command(&m.bytes).unwrap()));
        state.traceparents.extend(messages.into_iter().filter_map(|m| m.traceparent));
        Ok(())
    }

    async fn dead_letter(&self, message: &Inbound, reason: &str) -> Result<(), transport::Error> {
        self.state().dead.push((message.offset, reason.to_owned()));
        Ok(())
    }
}

impl Source for World {
    async fn receive(&mut self, max: usize, _: Duration) -> Result<Batch, transport::Error> {
        let mut state = self.state();
        let from = state.read_to;
        let messages: Vec<Inbound> = state.topic[from..]
            .iter()
            .take(max)
            .zip(from..)
            .map(|(bytes, at)| Inbound {
                topic: "saga.replies".to_owned(),
                partition: 0,
                offset: at as i64,
                traceparent: state.replies_trace.clone(),
                signature: None,
                bytes: bytes.clone(),
            })
            .collect();
        state.read_to += messages.len();
        Ok(Batch { receipt: state.read_to as u64, messages })
    }

    fn commit(&mut self, receipt: u64) -> Result<(), transport::Error> {
        let mut state = self.state();
        state.settled_to = receipt as usize;
        state.log.push("offsets".to_owned());
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), transport::Error> {
        let mut state = self.state();
        state.read_to = state.settled_to;
        state.log.push("rewind".to_owned());
        Ok(())
    }

    fn assignment(&self) -> Assignment {
        self.state().assignment.clone()
    }
}
