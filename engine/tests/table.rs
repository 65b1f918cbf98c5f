//! Every situation of a saga × every event, and the decision: one table to read.

mod support;

use std::fmt::Write;

use amends_engine::core::{Actor, Decision, Definition, Event, Resend, Resolution, Retry, Seen, Signal};
use amends_engine::dialogue::Dialogue;
use amends_protocol::{Outcome, Reason};
use serde_json::json;
use support::{
    PATIENCE, SECOND, asking, asking_first, asking_last, begin, unknown_until_parked, waiting_for,
};

/// A saga in some situation, and the step that the answers are about.
type Situation = (&'static str, &'static str, Dialogue);

fn after(mut stay: Dialogue, what: impl FnOnce(&mut Dialogue)) -> Dialogue {
    what(&mut stay);
    stay
}

/// A worker that knows nothing of a success reports it as undone.
fn less(of: &Dialogue) -> Event {
    let mut reply = of.reply("charge compensate", Outcome::Succeeded);
    reply.exposure.clear();
    Event::Replied(reply)
}

fn nobody_knows() -> Dialogue {
    after(waiting_for("charge"), |s| {
        done(
            s.answers("charge execute", Outcome::Unknown)
                .passes(SECOND)
                .answers("charge probe", Outcome::Unknown),
        )
    })
}

fn going_forward() -> Vec<Situation> {
    let of = |step, what: fn(&mut Dialogue)| after(waiting_for(step), what);
    vec![
        ("waits for its first step", "book", waiting_for("book")),
        ("one of two parts has succeeded", "book", after(begin(2), |s| done(s.succeeds("book/1 execute")))),
        ("waits for a step", "charge", waiting_for("charge")),
        ("asks what became of a step", "charge", of("charge", |s| done(s.passes(10 * SECOND)))),
        (
            "a step failed, in backoff",
            "charge",
            of("charge", |s| done(s.answers("charge execute", Outcome::FailedTransient))),
        ),
        (
            "a worker is too old",
            "charge",
            of("charge", |s| done(s.answers("charge execute", Outcome::Unsupported))),
        ),
        ("nobody knows, asked after again", "charge", nobody_knows()),
        ("parked, outcome unknown", "charge", unknown_until_parked("charge")),
        (
            "poisoned",
            "charge",
            of("charge", |s| done(s.happens(Event::Poisoned(Reason::new("poisoned", ""))))),
        ),
        ("waits for the pivot", "confirm", waiting_for("confirm")),
        ("parked, the pivot's outcome unknown", "confirm", unknown_until_parked("confirm")),
        ("waits for a retriable step", "file", waiting_for("file")),
        (
            "parked, a retriable step was refused",
            "file",
            of("file", |s| done(s.refuses("file execute", "no_paper"))),
        ),
        (
            "parked, a retriable step is expired",
            "file",
            of("file", |s| done(s.answers("file execute", Outcome::Expired))),
        ),
        ("parked, a retriable step's outcome unknown", "file", unknown_until_parked("file")),
    ]
}

fn being_undone() -> Vec<Situation> {
    let of = |step, what: fn(&mut Dialogue)| after(waiting_for(step), what);
    vec![
        (
            "cancelled, the step's success known",
            "charge",
            of("confirm", |s| done(s.cancels().succeeds("confirm compensate"))),
        ),
        ("cancelled, the step's outcome open", "charge", of("charge", |s| done(s.cancels()))),
        (
            "refused, the step before is undone",
            "charge",
            of("charge", |s| done(s.refuses("charge execute", "declined"))),
        ),
        (
            "a compensation failed, in backoff",
            "charge",
            of("charge", |s| done(s.cancels().answers("charge compensate", Outcome::FailedTransient))),
        ),
        (
            "nobody knows what became of a compensation, sent again",
            "charge",
            of("charge", |s| done(s.cancels().answers("charge compensate", Outcome::Unknown))),
        ),
        (
            "nobody knows what became of a compensation, for too long",
            "charge",
            of("charge", |s| {
                s.cancels();
                while !s.saga.parked {
                    s.answers("charge compensate", Outcome::Unknown).passes(PATIENCE / 4);
                }
            }),
        ),
        (
            "a compensation gave back less than is held",
            "charge",
            of("confirm", |s| {
                s.cancels().succeeds("confirm compensate");
                s.happens(less(s));
            }),
        ),
        (
            "a compensation was refused",
            "charge",
            of("charge", |s| done(s.cancels().refuses("charge compensate", "closed"))),
        ),
        (
            "the first step is undone last",
            "book",
            of("charge", |s| done(s.cancels().succeeds("charge compensate"))),
        ),
    ]
}

fn ended() -> Vec<Situation> {
    let undone = || {
        let mut stay = waiting_for("charge");
        let late = stay.reply("charge execute", Outcome::Succeeded);
        stay.refuses("charge execute", "declined").succeeds("book compensate");
        (stay, late)
    };
    let (declined, late) = undone();
    let orphan = after(declined.clone(), |s| done(s.happens(Event::Replied(late))));
    let refused = after(orphan.clone(), |s| done(s.refuses("charge compensate", "closed")));
    let cancelled = after(waiting_for("book"), |s| done(s.cancels().succeeds("book compensate")));
    vec![
        ("completed", "file", waiting_for("nothing")),
        ("cancelled and undone", "book", cancelled),
        ("declined and undone", "charge", declined),
        ("ended, an orphan is undone", "charge", orphan),
        ("ended, an orphan's compensation was refused", "charge", refused),
    ]
}

/// Waits for a signal, in every place where one may stand.
fn signals() -> Vec<Situation> {
    let begun = |definition: Definition| {
        after(Dialogue::begin(definition, json!({ "rooms": 1 })), |s| s.sent.clear())
    };
    let waits = |deadline| after(begun(asking(deadline)), |s| done(s.succeeds("book execute")));
    let (yes, no) = (json!({ "yes": true }), json!({ "yes": false }));
    let overdue = after(waits(Some(60 * SECOND)), |s| s.now += 60 * SECOND);
    vec![
        ("before its step", "book", begun(asking(None))),
        ("it came early", "book", after(begun(asking(None)), |s| done(s.signals("ask", yes.clone())))),
        ("waits for a signal", "ask", waits(None)),
        ("waits for a signal until a deadline", "ask", waits(Some(60 * SECOND))),
        ("the deadline has passed, and nobody has noticed", "ask", overdue.clone()),
        ("given up after the deadline", "ask", after(overdue, |s| done(s.happens(Event::Woke)))),
        (
            "waits for a signal, poisoned",
            "ask",
            after(waits(None), |s| done(s.happens(Event::Poisoned(Reason::new("poisoned", ""))))),
        ),
        ("it came", "ask", after(waits(None), |s| done(s.signals("ask", yes.clone())))),
        ("it said no", "ask", after(waits(None), |s| done(s.signals("ask", no.clone())))),
        ("cancelled while it waited", "ask", after(waits(None), |s| done(s.cancels()))),
        (
            "cancelled after it came",
            "charge",
            after(waits(None), |s| done(s.signals("ask", yes.clone()).cancels())),
        ),
        ("waits for a signal that is the pivot", "ask", begun(asking_first())),
        ("said no at the pivot", "ask", after(begun(asking_first()), |s| done(s.signals("ask", no)))),
        (
            "waits for a signal after the pivot",
            "ask",
            after(begun(asking_last()), |s| done(s.succeeds("confirm execute"))),
        ),
        (
            "completed",
            "file",
            after(begun(asking_first()), |s| done(s.signals("ask", yes).succeeds("file execute"))),
        ),
    ]
}

/// The end of a chain, as a statement.
fn done(_: &mut Dialogue) {}

fn events(step: &str, at: &Dialogue) -> Vec<(String, Event)> {
    let actor = || Actor::new("somebody", "why");
    let seen = at.seen();
    let resolve = |done, reference: &str| {
        let reference = reference.to_owned();
        Event::Resolved(Resolution { by: actor(), seen, done, reference, exposure: vec![] })
    };
    let old = Seen { revision: seen.revision - 1, ..seen };
    let nothing = Seen { command_id: None, ..seen };
    let another = Seen { command_id: Some(uuid::Uuid::nil()), ..seen };
    let retry = |seen| Event::RetryRequested(Retry { by: actor(), seen });
    let mut events = vec![
        ("woken early".to_owned(), Event::Woke),
        ("woken".to_owned(), Event::Woke),
        ("cancel".to_owned(), Event::CancelRequested(actor())),
        ("retry".to_owned(), retry(seen)),
        ("retry of an earlier revision".to_owned(), retry(old)),
        ("retry of no command".to_owned(), retry(nothing)),
        ("retry of another command".to_owned(), retry(another)),
        ("resend".to_owned(), Event::ResendRequested(Resend { by: actor(), seen: None })),
        ("resend of another".to_owned(), Event::ResendRequested(Resend { by: actor(), seen: Some(another) })),
        ("done".to_owned(), resolve(true, "R-1")),
        ("done without reference".to_owned(), resolve(true, "")),
        ("not done".to_owned(), resolve(false, "R-1")),
        ("not done without reference".to_owned(), resolve(false, "")),
        ("poison".to_owned(), Event::Poisoned(Reason::new("poisoned", ""))),
    ];
    for payload in [json!({ "yes": true }), json!({ "yes": false }), json!("well")] {
        let name = format!("signal ask {payload}");
        let signal = Signal { name: "ask".to_owned(), payload: payload.into(), by: actor() };
        events.push((name, Event::Signalled(signal)));
    }
    let kinds = ["execute", "probe", "compensate"].map(|kind| format!("{step} {kind}"));
    let has_booked = at.entries[0].did.sent.iter().any(|sent| sent.starts_with("book"));
    let settled = (step != "book" && has_booked).then(|| "book execute".to_owned());
    for command in kinds.into_iter().chain(settled) {
        for outcome in Outcome::ALL {
            let reply = at.reply(&command, outcome);
            events.push((format!("{command}: {}", outcome.as_str()), Event::Replied(reply)));
        }
        let mut strange = at.reply(&command, Outcome::Succeeded);
        strange.step = "another".to_owned();
        events.push((format!("{command}: another step's echo"), Event::Replied(strange)));
    }
    events
}

/// Returns the result of an event, in one line.
fn decided(from: &Dialogue, name: &str, event: Event) -> String {
    let mut stay = from.clone();
    if name == "woken" {
        let Some(at) = stay.saga.wake_at else { return "(never)".to_owned() };
        stay.now = stay.now.max(at);
    }
    let due = |stay: &Dialogue| {
        let commands = stay.saga.state.commands.iter().filter(|_| stay.saga.state.poisoned.is_none());
        let next = commands.filter_map(|c| c.due()).chain(stay.saga.state.timeout_at).min();
        next.map_or("nothing due".to_owned(), |at| {
            format!("due in {}s", (at - stay.now).num_milliseconds() as f64 / 1000.0)
        })
    };
    let written = stay.entries.len();
    stay.happens(event);
    match &stay.last {
        None => {}
        Some(Decision::Nothing(why)) => return format!("nothing ({why:?})"),
        Some(Decision::Illegal(why)) => return format!("illegal: {why}"),
        Some(Decision::Rescheduled(_)) => return format!("looked again, {}", due(&stay)),
        Some(Decision::Changed(_)) => unreachable!("a change is applied"),
    }
    assert_eq!(stay.entries.len(), written + 1);
    let line = stay.timeline().lines().last().unwrap_or_default().to_owned();
    let what = line.find(" -> ").or_else(|| line.find(" [")).or_else(|| line.find(" heading"));
    let what = what
        .or_else(|| line.find(" parked"))
        .or_else(|| line.find(" incident"))
        .or_else(|| line.find(" ended"))
        .or_else(|| line.find(" (noted)"));
    let what = what.map_or("recorded", |at| line[at..].trim_start());
    let state = stay.saga.state();
    if what == "(noted)" { "noted".to_owned() } else { format!("{what}; {}, {}", state.as_str(), due(&stay)) }
}

fn table(situations: Vec<Situation>) -> String {
    let mut table = String::new();
    for (name, step, at) in situations {
        let saga = &at.saga;
        writeln!(table, "## {name}: {}, {}", saga.label, saga.state().as_str()).unwrap();
        let mut lines: Vec<(String, Vec<String>)> = Vec::new();
        for (event, happens) in events(step, &at) {
            let decision = decided(&at, &event, happens);
            match lines.iter_mut().find(|(d, _)| *d == decision) {
                Some((_, events)) => events.push(event),
                None => lines.push((decision, vec![event])),
            }
        }
        for (decision, events) in lines {
            writeln!(table, "{decision}\n    <= {}", events.join(" | ")).unwrap();
        }
        table.push('\n');
    }
    table
}

#[test]
fn every_event_going_forward_is_decided_as_agreed() {
    insta::assert_snapshot!(table(going_forward()));
}

#[test]
fn every_event_around_a_signal_is_decided_as_agreed() {
    insta::assert_snapshot!(table(signals()));
}

#[test]
fn every_event_while_being_undone_is_decided_as_agreed() {
    insta::assert_snapshot!(table(being_undone()));
}

#[test]
fn every_event_after_the_end_is_decided_as_agreed() {
    insta::assert_snapshot!(table(ended()));
}
