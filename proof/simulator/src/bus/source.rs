//! The port for receiving: a member of a group.

use super::*;

/// The port for receiving: a member of a topic's group.
pub struct SimSource {
    handle: Handle,
    topic: usize,
    member: u64,
    view: Assignment,
    positions: BTreeMap<i32, usize>,
    settled: BTreeMap<i32, usize>,
    receipts: VecDeque<(u64, BTreeMap<i32, usize>)>,
    received: u64,
    tell: bool,
}

impl SimSource {
    /// Joins the group of a topic.
    pub fn join(handle: Handle, topic: usize) -> Self {
        let mut source = Self {
            handle,
            topic,
            member: 0,
            view: Assignment { count: PARTITIONS as i32, ..Assignment::default() },
            positions: BTreeMap::new(),
            settled: BTreeMap::new(),
            receipts: VecDeque::new(),
            received: 0,
            tell: true,
        };
        source.rejoin();
        source
    }

    fn rejoin(&mut self) {
        let (topic, process) = (self.topic, self.handle.process);
        let mut state = self.handle.state();
        state.bus.members += 1;
        let member = state.bus.members;
        self.member = member;
        let delay = state.rng.random_range(20_000..300_000);
        let incarnation = state.processes[process].incarnation;
        state.later(delay, move |s| {
            if s.processes[process].incarnation == incarnation {
                s.bus.groups[topic].members.push((member, process));
                s.bus.groups[topic].rebalance();
            }
        });
    }

    /// Checks whether the group has changed.
    fn sync(&mut self) {
        let topic = self.topic;
        let handle = self.handle.clone();
        let mut state = handle.state();
        let group = &state.bus.groups[topic];
        if group.generation == self.view.generation {
            return;
        }
        let removed = state.bus.removed.contains(&self.member);
        self.view.generation = group.generation;
        self.view.partitions = group.assigned(self.member);
        self.positions = self.view.partitions.iter().map(|p| (*p, group.committed[*p as usize])).collect();
        self.settled = self.positions.clone();
        self.receipts.clear();
        self.tell = true;
        let partitions = &self.view.partitions;
        state.note(handle.process, || format!("reads {partitions:?} of {}", TOPICS[topic]));
        drop(state);
        if removed {
            self.rejoin();
        }
    }

    fn take(&mut self, max: usize) -> Vec<Inbound> {
        let handle = self.handle.clone();
        let mut state = handle.state();
        let mut messages = Vec::new();
        for (&partition, position) in &mut self.positions {
            let records = &state.bus.partitions[self.topic][partition as usize];
            while messages.len() < max && *position < records.len() {
                let record = &records[*position];
                if !record.forgotten {
                    messages.push(Inbound {
                        topic: TOPICS[self.topic].to_owned(),
                        partition,
                        offset: *position as i64,
                        traceparent: record.traceparent.clone(),
                        signature: None,
                        bytes: record.bytes.clone(),
                    });
                }
                *position += 1;
            }
        }
        if self.topic == REPLIES {
            messages.iter().for_each(|m| state.meet_reply(&m.bytes));
        }
        messages
    }
}

impl Source for SimSource {
    async fn receive(&mut self, max: usize, patience: Duration) -> Result<Batch, Error> {
        // A fetch takes some time.
        self.handle.sleep(500).await;
        let mut timer: Option<OneShot<()>> = None;
        let messages = poll_fn(|cx| {
            let unreachable = self.handle.state().unreachable(self.handle.process, Site::Broker);
            if let Some(until) = unreachable {
                let waker = cx.waker().clone();
                self.handle.state().schedule.push(until, Event::Wake(waker));
                return Poll::Pending;
            }
            self.sync();
            let messages = self.take(max);
            if !messages.is_empty() {
                return Poll::Ready(messages);
            }
            self.handle.state().bus.groups[self.topic].waiting.add(cx.waker());
            // An empty batch is news only after a change; otherwise this may wait for ever, which stands for repeated
            // calls.
            if self.tell {
                let timer = timer.get_or_insert_with(|| {
                    let slot: OneShot<()> = OneShot::default();
                    let wake = slot.clone();
                    self.handle.state().later(patience.as_micros() as Micros, move |_| wake.fill(()));
                    slot
                });
                if std::pin::Pin::new(timer).poll(cx).is_ready() {
                    self.tell = false;
                    return Poll::Ready(Vec::new());
                }
            }
            Poll::Pending
        })
        .await;
        self.tell |= !messages.is_empty();
        self.received += 1;
        self.receipts.push_back((self.received, self.positions.clone()));
        Ok(Batch { messages, receipt: self.received })
    }

    fn commit(&mut self, receipt: u64) -> Result<(), Error> {
        while let Some((_, positions)) = self.receipts.pop_front_if(|(r, _)| *r <= receipt) {
            self.settled = positions;
        }
        let (topic, member, settled) = (self.topic, self.member, self.settled.clone());
        let generation = self.view.generation;
        let mut state = self.handle.state();
        let delay = state.rng.random_range(1_000..5_000);
        state.later(delay, move |s| {
            let group = &mut s.bus.groups[topic];
            if group.generation == generation && group.members.iter().any(|(m, _)| *m == member) {
                settled.iter().for_each(|(p, at)| group.committed[*p as usize] = *at);
            }
        });
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), Error> {
        self.receipts.clear();
        self.positions.clone_from(&self.settled);
        Ok(())
    }

    fn assignment(&self) -> Assignment {
        self.view.clone()
    }
}
