//! A transport controlled by the test, which records the calls in order.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use amends_protocol::{
    Command, Kind, Outcome, Reply,
    transport::{Assignment, Batch, Error, Inbound, Outbound, Sink, Source},
    wire,
};

/// Source and sink of one or more instances of a worker. Clones are the same wire.
#[derive(Clone, Default)]
pub struct Wire(Arc<Mutex<WireState>>);

#[derive(Default)]
struct WireState {
    queue: VecDeque<Inbound>,
    /// Received, and neither committed nor returned.
    taken: Vec<Inbound>,
    offset: i64,
    broken: bool,
    replies: Vec<Reply>,
    dead_letters: Vec<(i64, String)>,
    log: Vec<&'static str>,
}

impl Wire {
    fn state(&self) -> MutexGuard<'_, WireState> {
        self.0.lock().unwrap()
    }

    /// Puts commands where the worker will receive them, together.
    pub fn put(&self, commands: &[&Command]) {
        commands.iter().for_each(|command| self.put_bytes(&wire::write(command)));
    }

    pub fn put_bytes(&self, bytes: &[u8]) {
        self.put_signed(bytes, None);
    }

    pub fn put_signed(&self, bytes: &[u8], signature: Option<&str>) {
        let mut state = self.state();
        state.offset += 1;
        let (topic, offset) = ("payment.commands".to_owned(), state.offset);
        state.queue.push_back(Inbound {
            topic,
            partition: 0,
            offset,
            traceparent: None,
            signature: signature.map(str::to_owned),
            bytes: bytes.to_vec(),
        });
    }

    /// Makes the wire refuse replies and dead letters, or accept them again.
    pub fn set_broken(&self, broken: bool) {
        self.state().broken = broken;
    }

    /// Returns all messages whose offsets have not moved to the queue, as after a restart.
    pub fn restart(&self) {
        self.state().rewind();
    }

    /// Returns the number of messages that wait to be received, or to be committed.
    pub fn uncommitted(&self) -> usize {
        let state = self.state();
        state.queue.len() + state.taken.len()
    }

    /// Returns the replies since the last call.
    pub fn replies(&self) -> Vec<Reply> {
        std::mem::take(&mut self.state().replies)
    }

    /// Returns kind, outcome and attempt of the replies since the last call.
    pub fn outcomes(&self) -> Vec<(Kind, Outcome, u32)> {
        self.replies().iter().map(|r| (r.kind, r.outcome, r.attempt)).collect()
    }

    /// Returns offset and reason of every dead letter.
    pub fn dead_letters(&self) -> Vec<(i64, String)> {
        self.state().dead_letters.clone()
    }

    /// Returns the calls of source and sink, in order.
    pub fn log(&self) -> Vec<&'static str> {
        self.state().log.clone()
    }
}

impl WireState {
    fn rewind(&mut self) {
        for message in std::mem::take(&mut self.taken).into_iter().rev() {
            self.queue.push_front(message);
        }
    }

    fn works(&self) -> Result<(), Error> {
        if self.broken { Err(Error("out of order".to_owned())) } else { Ok(()) }
    }
}

impl Source for Wire {
    async fn receive(&mut self, max: usize, _: Duration) -> Result<Batch, Error> {
        let mut state = self.state();
        let most = max.min(state.queue.len());
        let messages: Vec<Inbound> = state.queue.drain(..most).collect();
        state.taken.extend(messages.clone());
        Ok(Batch { messages, receipt: 1 })
    }

    fn commit(&mut self, _: u64) -> Result<(), Error> {
        let mut state = self.state();
        state.taken.clear();
        state.log.push("offsets");
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), Error> {
        let mut state = self.state();
        state.rewind();
        state.log.push("rewind");
        Ok(())
    }

    fn assignment(&self) -> Assignment {
        Assignment::default()
    }
}

impl Sink for Wire {
    async fn send(&self, messages: Vec<Outbound>) -> Result<(), Error> {
        let mut state = self.state();
        state.works()?;
        state.log.push("replies");
        for message in messages {
            assert_eq!(message.topic, "saga.replies");
            state.replies.push(wire::reply(&message.bytes).unwrap());
        }
        Ok(())
    }

    async fn dead_letter(&self, message: &Inbound, reason: &str) -> Result<(), Error> {
        let mut state = self.state();
        state.works()?;
        state.log.push("dead letter");
        state.dead_letters.push((message.offset, reason.to_owned()));
        Ok(())
    }
}
