//! A payment gateway in memory: correct about its keys, and otherwise as bad as the test wants.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use amends_protocol::{Exposure, Json, negated};
use amends_worker::{Action, Answer, ExternalExecutor, LookUp, Port, Void, Work};
use serde_json::json;
use tokio::sync::Semaphore;
use uuid::Uuid;

/// A port that guarantees everything except voiding.
pub const GOOD: Port = Port {
    idempotent: true,
    first_answer_binds: true,
    can_look_up: true,
    can_void: false,
    keeps_keys_for: Duration::from_secs(3600),
};

/// What happens to one call. Without a script it is done.
#[derive(Clone)]
pub enum Act {
    /// The gateway answers this at once; nothing happens.
    Says(Answer),
    /// There is no answer. The call is still on its way: see [`Gateway::lands`].
    Lost,
    /// The call is done, and the answer is lost.
    DoneUnheard,
    /// The call waits for a permit, then is done.
    Held(Arc<Semaphore>),
    /// The call waits for a permit, then is answered; nothing happens.
    HeldThenSays(Arc<Semaphore>, Answer),
}

/// A gateway; clones share their state.
#[derive(Clone)]
pub struct Gateway {
    port: Port,
    books: Arc<Mutex<Books>>,
}

#[derive(Default)]
struct Books {
    script: HashMap<Uuid, VecDeque<Act>>,
    answers: HashMap<Uuid, Answer>,
    voided: HashSet<Uuid>,
    effects: Vec<Uuid>,
    calls: Vec<Uuid>,
    on_their_way: Vec<Work>,
}

impl Gateway {
    pub fn new(port: Port) -> Self {
        Self { port, books: Arc::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// Sets what happens to the next calls under this key.
    pub fn script(&self, key: Uuid, acts: impl IntoIterator<Item = Act>) {
        self.books().script.entry(key).or_default().extend(acts);
    }

    /// Holds the next call under this key until the permit is given.
    pub fn hold(&self, key: Uuid) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.script(key, [Act::Held(gate.clone())]);
        gate
    }

    /// Lets the calls that were on their way arrive.
    pub fn lands(&self) {
        let late = std::mem::take(&mut self.books().on_their_way);
        assert!(!late.is_empty(), "no call is on its way");
        late.iter().for_each(|work| drop(self.done(work)));
    }

    /// Returns the number of calls under this key.
    pub fn calls(&self, key: Uuid) -> usize {
        self.books().calls.iter().filter(|k| **k == key).count()
    }

    /// Returns the number of effects under this key.
    pub fn effects(&self, key: Uuid) -> usize {
        self.books().effects.iter().filter(|k| **k == key).count()
    }

    fn done(&self, work: &Work) -> Answer {
        let (mut books, key) = (self.books(), work.command.command_id);
        if books.voided.contains(&key) {
            return Answer::refused("voided", "");
        }
        if let Some(answer) = books.answers.get(&key).filter(|_| self.port.idempotent) {
            return answer.clone();
        }
        books.effects.push(key);
        let exposure = match work.action {
            Action::Execute => vec![Exposure::new("money_captured", "EUR", 2500)],
            Action::Undo => negated(&work.held),
        };
        let answer = Answer::succeeded(Some(Json::from(json!({ "reference": key }))), exposure);
        books.answers.insert(key, answer.clone());
        answer
    }

    fn says(&self, work: &Work, answer: Answer) -> Answer {
        if self.port.first_answer_binds && matches!(answer, Answer::Refused(_)) {
            self.books().answers.insert(work.command.command_id, answer.clone());
        }
        answer
    }

    async fn call(&self, work: &Work) -> Answer {
        let key = work.command.command_id;
        let act = {
            let mut books = self.books();
            books.calls.push(key);
            books.script.get_mut(&key).and_then(VecDeque::pop_front)
        };
        match act {
            None => self.done(work),
            Some(Act::Says(answer)) => self.says(work, answer),
            Some(Act::Lost) => {
                self.books().on_their_way.push(work.clone());
                Answer::unknown("reset")
            }
            Some(Act::DoneUnheard) => {
                self.done(work);
                Answer::unknown("reset")
            }
            Some(Act::Held(gate)) => {
                gate.acquire().await.unwrap().forget();
                self.done(work)
            }
            Some(Act::HeldThenSays(gate, answer)) => {
                gate.acquire().await.unwrap().forget();
                self.says(work, answer)
            }
        }
    }
}

impl ExternalExecutor for Gateway {
    fn port(&self) -> Port {
        self.port
    }

    async fn execute(&self, work: &Work) -> Answer {
        assert_eq!(work.action, Action::Execute);
        self.call(work).await
    }

    async fn undo(&self, work: &Work) -> Answer {
        assert_eq!(work.action, Action::Undo);
        self.call(work).await
    }

    async fn look_up(&self, work: &Work) -> LookUp {
        assert!(self.port.can_look_up, "it was said that it cannot look up");
        let answer = self.books().answers.get(&work.command.command_id).cloned();
        answer.map_or(LookUp::Nothing, LookUp::Found)
    }

    async fn void(&self, work: &Work) -> Void {
        assert!(self.port.can_void && work.action == Action::Execute);
        let (mut books, key) = (self.books(), work.command.command_id);
        if books.answers.contains_key(&key) {
            return Void::TooLate;
        }
        books.voided.insert(key);
        Void::Voided
    }
}
