//! Other actors: an operator, and a worker that is not ours.

use super::*;

impl TwoSteps {
    /// Other things that may happen to a reply on its way.
    pub(super) fn garbled(&self, state: &SagaSystem, at: usize, next: &mut Vec<(String, SagaSystem)>) {
        let Message::Reply(reply) = &state.messages[at] else { return };
        if state.left.unnetted > 0 && reply.kind == Kind::Compensate && !reply.exposure.is_empty() {
            let mut after = state.clone();
            after.left.unnetted -= 1;
            after.messages[at] = Message::Reply(ReplyEvent { exposure: Vec::new(), ..reply.clone() });
            next.push((format!("{}: nothing is given back", reply.step), after));
        }
        if state.left.echoes > 0 {
            let mut after = state.clone();
            after.left.echoes -= 1;
            let step = if reply.step == "first" { "second" } else { "first" }.to_owned();
            let outcome = Outcome::Refused;
            after.messages.push(Message::Reply(ReplyEvent { step, outcome, ..reply.clone() }));
            next.push((format!("{}: another's echo", reply.step), after));
        }
    }

    /// The signal is delivered: before the saga waits for it, while it waits, or later.
    pub(super) fn signal(&self, state: &SagaSystem, e: usize, next: &mut Vec<(String, SagaSystem)>) {
        if state.left.signals == 0 {
            return;
        }
        for yes in [true, false] {
            let mut after = state.clone();
            after.left.signals -= 1;
            let payload = Json::of(&yes).unwrap_or_default();
            let signal = Signal { name: "ask".to_owned(), payload, by: Actor::new("m", "") };
            self.read(&mut after, e, Event::Signalled(signal), None);
            next.push((format!("engine {e} reads for a signal: {yes}"), after));
        }
    }

    /// An operator looks at what is parked, or acts on what they saw. What they resolve as undone was undone by hand
    /// when they looked.
    pub(super) fn operator(&self, state: &SagaSystem, e: usize, next: &mut Vec<(String, SagaSystem)>) {
        if state.left.actions == 0 {
            return;
        }
        let Some(seen) = state.page else {
            let Some(command) = state.saga.parked_command() else { return };
            let mut after = state.clone();
            after.page = Some(state.saga.seen(&self.definition));
            if let Some(effect) = after.effects.get_mut(&command.id(state.saga.id, &self.definition)) {
                effect.1 = false;
            }
            next.push(("an operator looks, and has it undone by hand".to_owned(), after));
            return;
        };
        let by = || Actor::new("o", "");
        let resolution =
            Resolution { by: by(), seen, done: true, reference: "R".to_owned(), exposure: Vec::new() };
        for (name, event) in [
            ("a retry", Event::RetryRequested(Retry { by: by(), seen })),
            ("a resolution", Event::Resolved(resolution)),
        ] {
            let mut after = state.clone();
            (after.left.actions, after.page) = (state.left.actions - 1, None);
            self.read(&mut after, e, event, None);
            next.push((format!("engine {e} reads for {name}"), after));
        }
    }
}
