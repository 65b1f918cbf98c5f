//! Invalid definitions are refused; commands match their definition; timelines that do not fit are detected.

mod support;

use amends_engine::core::{CommandToSend, Fault, Input, Mismatch, NewSaga, Step, StepKind, command, replay};
use amends_engine::dialogue::Dialogue;
use amends_protocol::{Json, Kind, TokenKey, id};
use serde_json::json;
use support::{SECOND, begin, stay, waiting_for};

#[test]
fn a_definition_that_cannot_be_run_is_refused() {
    type Break = fn(&mut amends_engine::core::Definition);
    let cases: [(Break, Fault); 8] = [
        (|d| d.steps.clear(), Fault::NoSteps),
        (|d| d.steps[1].name = "book", Fault::TwiceNamed("book")),
        (|d| d.steps[0].kind = StepKind::Retriable, Fault::OutOfOrder("charge")),
        (|d| d.steps[3].kind = StepKind::Compensatable, Fault::OutOfOrder("file")),
        (|d| d.timeout.as_mut().unwrap().until_step = 2, Fault::Timeout),
        (|d| d.steps[1].participant = "", Fault::Participant("charge")),
        (
            |d| d.steps[1].signal = Step::signal("charge", StepKind::Pivot).signal,
            Fault::Participant("charge"),
        ),
        (
            |d| {
                d.steps.push(Step::signal("ask", StepKind::Retriable));
                d.steps[4].signal.as_mut().unwrap().deadline = Some(SECOND);
            },
            Fault::SignalDeadline("ask"),
        ),
    ];
    for (broken, fault) in cases {
        let mut definition = stay();
        broken(&mut definition);
        assert_eq!(definition.validate(), Err(fault));
    }
    assert_eq!(stay().validate(), Ok(()));
}

#[test]
fn a_command_is_the_same_for_every_attempt_and_only_an_execute_has_a_payload() {
    let (mut stay_, key) = (begin(2), TokenKey::new([1; 32]));
    let sends: Vec<CommandToSend> = {
        stay_.passes(12 * SECOND);
        stay_.sent.drain(..).filter(|s| s.part == 1).collect()
    };
    let data: Json = json!({ "rooms": 2 }).into();
    let input = Input { data: &data, personal: None };
    let execute = id::execute(stay_.saga.id, "book", 1, 1);
    let mut kinds = Vec::new();
    for send in &sends {
        let sent = command(&stay(), &stay_.saga, send, input, 3, &key);
        assert_eq!((sent.row_key(), sent.part, sent.attempt, sent.epoch), (execute, 1, 1, 3));
        assert_eq!((sent.issued_at, sent.fault()), (stay_.saga.born_at, None));
        assert!(key.verifies(sent.command_id, &sent.reply_token));
        assert_eq!(sent.payload.is_null(), send.kind != Kind::Execute);
        kinds.push(send.kind);
    }
    assert!(kinds.contains(&Kind::Execute) && kinds.contains(&Kind::Probe), "{kinds:?}");
}

fn history(of: &Dialogue) -> Result<(), Mismatch> {
    let new = NewSaga { id: of.saga.id, business_key: of.saga.business_key.clone(), trace: None };
    replay(&stay(), new, &of.entries).map(drop)
}

#[test]
fn a_history_with_a_gap_or_another_decision_is_found_out() {
    let whole = waiting_for("file");
    assert_eq!(history(&whole), Ok(()));
    let mut without = whole.clone();
    without.entries.remove(2);
    assert_eq!(history(&without), Err(Mismatch::Gap { expected: 3, found: 4 }));
    let mut unborn = whole.clone();
    unborn.entries.remove(0);
    assert_eq!(history(&unborn), Err(Mismatch::Birth));
    let mut forged = whole;
    forged.entries[1].did.label = Some("PAID FOR".to_owned());
    assert_eq!(history(&forged), Err(Mismatch::Decision(2)));
}
