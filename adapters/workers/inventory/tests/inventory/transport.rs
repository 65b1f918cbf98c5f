//! A transport in memory, shared by the tests of the three workers: commands go in, replies come out.
#![allow(dead_code, reason = "each worker's tests use a part of it")]

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use amends_protocol::{
    Command, Json, Kind, Outcome, Reply, SCHEMA_VERSION, id,
    transport::{Assignment, Batch, Error, Inbound, Outbound, Sink, Source},
    wire,
};
use chrono::Utc;
use serde_json::Value;
use tokio::sync::Notify;
use uuid::Uuid;

/// How long a test waits for anything.
pub const SOON: Duration = Duration::from_secs(90);

/// A topic of commands and one of replies. Clones are the same topics.
#[derive(Clone, Default)]
pub struct Topics(Arc<Inner>);

#[derive(Default)]
struct Inner {
    commands: Mutex<VecDeque<Inbound>>,
    arrived: Notify,
    offset: AtomicI64,
    unsettled: AtomicUsize,
    replies: Mutex<Vec<Reply>>,
    dead_letters: Mutex<Vec<(Inbound, String)>>,
}

impl Topics {
    /// Sends these commands as one batch, if a worker accepts that many.
    pub fn send(&self, commands: &[Command]) {
        self.send_bytes(commands.iter().map(wire::write).collect());
    }

    pub fn send_bytes(&self, messages: Vec<Vec<u8>>) {
        let inbound = |bytes| Inbound {
            topic: "commands".into(),
            partition: 0,
            offset: self.0.offset.fetch_add(1, Ordering::Relaxed),
            traceparent: None,
            signature: None,
            bytes,
        };
        self.0.unsettled.fetch_add(messages.len(), Ordering::SeqCst);
        self.0.commands.lock().unwrap().extend(messages.into_iter().map(inbound));
        self.0.arrived.notify_one();
    }

    /// Sends a command and waits for the next reply to it.
    pub async fn ask(&self, command: &Command) -> Reply {
        let before = self.replies_to(command).len();
        self.send(std::slice::from_ref(command));
        self.next_reply(command, before).await
    }

    /// Sends a command and waits for the reply with its outcome, not only for `in_flight`.
    pub async fn settled(&self, command: &Command) -> Reply {
        let before = self.replies_to(command).len();
        self.send(std::slice::from_ref(command));
        self.reply_where(command, before, |reply| {
            !matches!(reply.outcome, Outcome::InFlight | Outcome::Unknown)
        })
        .await
    }

    async fn next_reply(&self, command: &Command, before: usize) -> Reply {
        self.reply_where(command, before, |_| true).await
    }

    /// Waits for the first matching reply to this command, after a number of earlier ones.
    pub async fn reply_where(
        &self,
        command: &Command,
        before: usize,
        wanted: impl Fn(&Reply) -> bool,
    ) -> Reply {
        let what = format!("a reply to {} {}", command.kind.as_str(), command.step);
        amends_testkit::eventually(&what, SOON, async || {
            self.replies_to(command).into_iter().skip(before).find(&wanted)
        })
        .await
    }

    /// Returns all replies so far to this command, in order.
    pub fn replies_to(&self, command: &Command) -> Vec<Reply> {
        let replies = self.replies();
        replies.into_iter().filter(|r| r.command_id == command.command_id && r.kind == command.kind).collect()
    }

    pub fn replies(&self) -> Vec<Reply> {
        self.0.replies.lock().unwrap().clone()
    }

    /// Waits until there are this many replies in all.
    pub async fn replied(&self, count: usize) -> Vec<Reply> {
        let enough = async || Some(self.replies()).filter(|replies| replies.len() >= count);
        amends_testkit::eventually("all replies", SOON, enough).await
    }

    /// Returns whether the workers have accepted or answered everything that was sent.
    pub fn is_settled(&self) -> bool {
        self.0.unsettled.load(Ordering::SeqCst) == 0
    }

    /// Returns the dead letters, with their reasons.
    pub fn dead_letters(&self) -> Vec<(Inbound, String)> {
        self.0.dead_letters.lock().unwrap().clone()
    }

    /// Returns a new consumer of the commands.
    pub fn source(&self) -> Consumer {
        Consumer { topics: self.clone(), taken: Vec::new(), received: Arc::default() }
    }
}

/// A consumer. When it is dropped, messages that it took and did not settle return to the topic.
pub struct Consumer {
    topics: Topics,
    taken: Vec<Inbound>,
    received: Arc<AtomicUsize>,
}

impl Consumer {
    /// Returns the number of messages received so far.
    pub fn received(&self) -> Arc<AtomicUsize> {
        self.received.clone()
    }

    fn give_back(&mut self) {
        if !self.taken.is_empty() {
            let mut commands = self.topics.0.commands.lock().unwrap();
            self.taken.drain(..).rev().for_each(|message| commands.push_front(message));
            self.topics.0.arrived.notify_one();
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Source for Consumer {
    async fn receive(&mut self, max: usize, patience: Duration) -> Result<Batch, Error> {
        let messages = {
            let mut commands = self.topics.0.commands.lock().unwrap();
            let count = commands.len().min(max);
            commands.drain(..count).collect::<Vec<_>>()
        };
        if messages.is_empty() {
            let _ = tokio::time::timeout(patience, self.topics.0.arrived.notified()).await;
        }
        self.received.fetch_add(messages.len(), Ordering::Relaxed);
        self.taken.extend(messages.iter().cloned());
        Ok(Batch { messages, receipt: 1 })
    }

    fn commit(&mut self, _: u64) -> Result<(), Error> {
        self.topics.0.unsettled.fetch_sub(self.taken.len(), Ordering::SeqCst);
        self.taken.clear();
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), Error> {
        self.give_back();
        Ok(())
    }

    fn assignment(&self) -> Assignment {
        Assignment::default()
    }
}

impl Sink for Topics {
    async fn send(&self, messages: Vec<Outbound>) -> Result<(), Error> {
        let replies = messages.iter().map(|m| wire::reply(&m.bytes).expect("workers write replies"));
        self.0.replies.lock().unwrap().extend(replies);
        Ok(())
    }

    async fn dead_letter(&self, message: &Inbound, reason: &str) -> Result<(), Error> {
        self.0.dead_letters.lock().unwrap().push((message.clone(), reason.to_owned()));
        Ok(())
    }
}

/// Creates the execute of a step, for a new saga.
pub fn execute(step: &str, payload: Value) -> Command {
    let saga_id = Uuid::now_v7();
    Command {
        schema_version: SCHEMA_VERSION,
        command_id: id::execute(saga_id, step, 0, 1),
        kind: Kind::Execute,
        target: None,
        saga_id,
        slot: 7,
        business_key: saga_id.to_string(),
        workflow: "order_fulfilment".into(),
        workflow_version: 1,
        step: step.into(),
        part: 0,
        generation: 1,
        attempt: 1,
        epoch: 0,
        issued_at: Utc::now(),
        sent_at: None,
        target_issued_at: None,
        resolved: None,
        deadline: Utc::now(),
        reply_token: "token".into(),
        payload: Json::from(payload),
    }
}

/// Creates a command of this kind about an execute.
pub fn about(kind: Kind, target: &Command) -> Command {
    let id = target.command_id;
    let payload = Json::null();
    Command { kind, command_id: id::of(kind, id), target: Some(id), payload, ..target.clone() }
}

/// Creates the compensation of an execute.
pub fn undo(target: &Command) -> Command {
    about(Kind::Compensate, target)
}

/// Returns the same command at another attempt.
pub fn attempt(attempt: u32, command: &Command) -> Command {
    Command { attempt, ..command.clone() }
}

/// Returns the code of a reply's reason.
pub fn code(reply: &Reply) -> &str {
    reply.reason.as_ref().map_or("", |reason| &reason.code)
}
