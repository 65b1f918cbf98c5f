//! The store goes back to an earlier state of itself, at every moment and to every moment, while the worker, its rows and
//! the topic stay as they are. The successor is started in the next epoch, and reads again what the worker has replied
//! since (OPERATING, "Backup and restore").

mod support;

use std::collections::{BTreeMap, BTreeSet};

use amends_engine::{
    core::{Actor, Entry, Event, Saga, SagaOutcome},
    runtime::{deferred, replies, timers::Timers},
};
use amends_protocol::{Command, Exposure, Kind, Outcome, Reply, negated};
use support::{
    stay,
    world::{TestEngine, World, block_on},
};
use uuid::Uuid;

/// A worker that does what it is asked once, and answers from its record from then on.
#[derive(Default)]
struct Hotel {
    rows: BTreeMap<Uuid, Row>,
    /// Number of commands that it has read.
    read_to: usize,
}

/// The worker's row of a command.
struct Row {
    saga: Uuid,
    epoch: u32,
    /// `None` for a command that never took effect, and never will.
    done: Option<Reply>,
    undone: Option<Reply>,
}

impl Row {
    fn holds(&self) -> bool {
        self.done.is_some() && self.undone.is_none()
    }
}

impl Hotel {
    /// Handles everything that was sent since the last time.
    fn works(&mut self, world: &World) {
        let commands: Vec<Command> = world.state().sent[self.read_to..].to_vec();
        self.read_to += commands.len();
        for command in commands {
            if let Some(reply) = self.receives(&command, world) {
                world.delivers(&reply);
            }
        }
    }

    fn receives(&mut self, command: &Command, world: &World) -> Option<Reply> {
        let now = world.state().now;
        let fresh = !self.rows.contains_key(&command.row_key());
        let asked = command.reply(Outcome::Succeeded, now);
        let row = self.rows.entry(command.row_key()).or_insert_with(|| Row {
            saga: command.saga_id,
            epoch: command.epoch,
            done: None,
            undone: None,
        });
        if command.epoch < row.epoch {
            return None;
        }
        row.epoch = command.epoch;
        let answer = match command.kind {
            Kind::Execute if fresh => {
                let reply = Reply { exposure: held(command), ..asked.clone() };
                row.done = Some(reply.clone());
                reply
            }
            Kind::Probe if fresh => {
                self.rows.remove(&command.row_key());
                return Some(command.reply(Outcome::NotSeen, now));
            }
            Kind::Execute | Kind::Probe | Kind::Fence => match (&row.done, row.holds()) {
                (Some(done), true) => done.clone(),
                _ => command.reply(Outcome::Fenced, now),
            },
            Kind::Compensate => {
                let given_back = row.done.as_ref().map(|done| negated(&done.exposure)).unwrap_or_default();
                row.undone.get_or_insert(Reply { exposure: given_back, ..asked.clone() }).clone()
            }
        };
        // What is recorded answers the command that asks.
        let Reply { outcome, exposure, attempt, .. } = answer;
        Some(Reply { outcome, exposure, attempt, ..asked })
    }
}

/// Returns what the effect of a command holds: all steps of a stay that hold anything.
fn held(command: &Command) -> Vec<Exposure> {
    match command.step.as_str() {
        "book" => vec![Exposure::new("room_booked", format!("room-{}", command.part), 1)],
        "charge" => vec![Exposure::new("money_captured", "EUR", 1)],
        "confirm" => vec![Exposure::new("key_cut", "key", 1)],
        _ => Vec::new(),
    }
}

/// What a restore brings back, and how far the topic had been read.
type Saved = (BTreeMap<Uuid, (Saga, Vec<Entry>)>, usize);

/// The number of steps after which everything has ended.
const STEPS: usize = 12;

/// One step: replies that have arrived, timers, deferred replies, and the worker.
fn step(world: &World, engine: &TestEngine, timers: &mut Timers, hotel: &mut Hotel) {
    world.passes(6);
    block_on(replies::run_once(engine, &mut world.clone())).unwrap();
    block_on(timers.run_once(engine)).unwrap();
    block_on(deferred::run_once(engine)).unwrap();
    hotel.works(world);
}

/// Runs two stays, of which the second is born later and the first is cancelled at some step; restores the store after
/// `until` steps to what it was after `to` steps; and runs on to the end.
fn restored(to: usize, until: usize, cancelled_at: usize) {
    let (world, engine) = World::new();
    let (mut timers, mut hotel) = (Timers::default(), Hotel::default());
    let first = world.born(1);
    let save = |world: &World| -> Saved {
        let state = world.state();
        (state.sagas.clone(), state.settled_to)
    };
    let mut saved = save(&world);
    for now in 1..=until {
        if now == 3 {
            world.born(2);
        }
        if now == cancelled_at {
            world.state().happens(first, Event::CancelRequested(Actor::new("guest", "changed my mind")));
        }
        step(&world, &engine, &mut timers, &mut hotel);
        if now == to {
            saved = save(&world);
        }
    }
    let before: BTreeSet<Uuid> = world.state().sagas.keys().copied().collect();

    {
        let mut state = world.state();
        (state.sagas, state.settled_to) = saved;
        state.read_to = state.settled_to;
        state.epoch = 2;
        state.deferred.clear();
        state.strays.clear();
    }
    let mut engine = world.engine();
    engine.epoch = 2;
    let mut timers = Timers::default();
    for _ in 0..STEPS * 4 {
        step(&world, &engine, &mut timers, &mut hotel);
    }

    let case = format!("restored after {until} steps to {to}, cancelled at {cancelled_at}");
    let state = world.state();
    assert!(state.dead.is_empty(), "{case}: {:?}", state.dead);
    assert!(state.deferred.is_empty(), "{case}: {} replies wait", state.deferred.len());
    for (saga, _) in state.sagas.values() {
        assert!(saga.outcome.is_some() && !saga.parked, "{case}: {saga:?}");
    }
    let strays: BTreeSet<Uuid> = state.strays.iter().map(|stray| stray.command_id).collect();
    let definition = stay();
    for (key, row) in &hotel.rows {
        let Some((saga, _)) = state.sagas.get(&row.saga) else {
            assert!(before.contains(&row.saga), "{case}");
            assert!(
                !row.holds() || strays.contains(key),
                "{case}: the effect of a lost saga is listed nowhere"
            );
            continue;
        };
        let ordered = saga.state.commands.iter().any(|command| command.id(saga.id, &definition) == *key);
        let expected = ordered && saga.outcome == Some(SagaOutcome::Completed);
        assert!(
            row.holds() == expected
                || strays.contains(key)
                || strays.contains(&amends_protocol::id::undo(*key)),
            "{case}: command {key} of {} holds {}, and the saga ended as {}",
            saga.id,
            row.holds(),
            saga.label
        );
    }
}

#[test]
fn whatever_the_store_forgets_no_effect_is_doubled_and_none_is_unexplained() {
    for until in 1..=STEPS {
        for to in 0..until {
            for cancelled_at in (0..=until.min(6)).step_by(2) {
                restored(to, until, cancelled_at);
            }
        }
    }
}
