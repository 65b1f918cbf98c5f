//! The work whose instructions are counted: all of it pure, the same every time.

use std::hint::black_box;

use amends_engine::core::{
    Change, CommandToSend, Decision, Definition, Event, Input, NewSaga, Occurrence, ReplyEvent, Saga,
    SagaProgress, command, start, transition,
};
use amends_protocol::{
    Command, CommandKey, CommandKeys, Exposure, Json, Outcome, Reason, Reply, TokenKey, wire,
};
use amends_workflows::order_fulfilment::definition;
use anyhow::{Result, bail};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

/// The pieces of work that are counted.
pub const NAMES: [&str; 5] = [
    "fulfil an order",
    "undo an order",
    "write and read messages",
    "sign and check commands",
    "write and read rows",
];

/// Repeats a piece of work `times` times.
pub fn run(name: &str, times: u32) -> Result<()> {
    let order = Order::new();
    let life = order.life(&["reserve", "pay", "ship", "take"], None)?;
    for _ in 0..times {
        match name {
            "fulfil an order" => drop(black_box(order.life(&["reserve", "pay", "ship", "take"], None)?)),
            "undo an order" => drop(black_box(order.life(&["reserve"], Some("pay"))?)),
            "write and read messages" => messages(&life)?,
            "sign and check commands" => signatures(&life)?,
            "write and read rows" => rows(&life)?,
            other => bail!("no such work: {other}"),
        }
    }
    Ok(())
}

/// An order, always the same.
pub struct Order {
    /// Its workflow.
    pub definition: Definition,
    /// Its input.
    pub data: Json,
    /// Its personal fields.
    pub personal: Json,
    key: TokenKey,
}

/// The events of the order.
pub struct Life {
    /// Its rows and entries, from its birth on.
    pub changes: Vec<Change>,
    commands: Vec<Command>,
    replies: Vec<Reply>,
}

impl Order {
    /// Two pieces of one product.
    pub fn new() -> Self {
        let lines = json!([{ "productId": "mug-blue", "quantity": 2, "unitPrice": 1250 }]);
        let address = json!({ "name": "Test Customer", "line1": "1 Long Street", "city": "Vienna",
                              "postalCode": "1010", "country": "AT" });
        Self {
            definition: definition(amends_workflows::Settings::default()),
            data: json!({ "customerId": "c-1001", "currency": "EUR", "total": 2500, "lines": lines,
                          "paymentMethod": "card_approved" })
            .into(),
            personal: json!({ "shippingAddress": address }).into(),
            key: TokenKey::new([7; 32]),
        }
    }

    /// The birth of the order's saga.
    pub fn birth(&self, new: NewSaga, now: DateTime<Utc>) -> Change {
        start(&self.definition, new, &self.data, now)
    }

    /// The change that a success of the one outstanding command causes.
    pub fn succeeds(
        &self,
        saga: &Saga,
        sends: &[CommandToSend],
        now: DateTime<Utc>,
    ) -> Result<(Command, Reply, Change)> {
        self.answered(saga, sends, Outcome::Succeeded, now)
    }

    fn answered(
        &self,
        saga: &Saga,
        sends: &[CommandToSend],
        outcome: Outcome,
        now: DateTime<Utc>,
    ) -> Result<(Command, Reply, Change)> {
        let [send] = sends else { bail!("{} commands are out", sends.len()) };
        let input = Input { data: &self.data, personal: Some(&self.personal) };
        let command = command(&self.definition, saga, send, input, 0, &self.key);
        let mut reply = command.reply(outcome, now);
        if outcome == Outcome::Refused {
            reply.reason = Some(Reason::new("card_declined", ""));
        } else {
            reply.exposure = vec![Exposure::new("held", &command.step, 1)];
        }
        let event = Event::Replied(ReplyEvent::from(reply.clone()));
        match transition(&self.definition, saga, &Occurrence { event, at: now, jitter: 500 }) {
            Decision::Changed(change) => Ok((command, reply, *change)),
            other => bail!("it changes nothing: {other:?}"),
        }
    }

    /// Lets these steps succeed; then, if one is named, it is refused and everything is undone.
    fn life(&self, steps: &[&str], refused: Option<&str>) -> Result<Life> {
        let mut now = DateTime::from_timestamp(1_767_225_600, 123_456_000).unwrap_or_default();
        let id = Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0007);
        let birth = self.birth(NewSaga { id, business_key: id.to_string(), trace: None }, now);
        let mut life = Life { changes: vec![birth], commands: Vec::new(), replies: Vec::new() };
        let outcomes = steps.iter().map(|_| Outcome::Succeeded).chain(refused.map(|_| Outcome::Refused));
        let undoing = std::iter::repeat(Outcome::Succeeded);
        for outcome in outcomes.chain(undoing) {
            let last = life.changes.last().expect("its birth");
            if last.sends.is_empty() {
                return Ok(life);
            }
            now += TimeDelta::milliseconds(10);
            let (command, reply, change) = self.answered(&last.saga, &last.sends, outcome, now)?;
            life.commands.push(command);
            life.replies.push(reply);
            life.changes.push(change);
        }
        Ok(life)
    }
}

fn messages(life: &Life) -> Result<()> {
    for command in &life.commands {
        black_box(wire::command(&wire::write(black_box(command)))?);
    }
    for reply in &life.replies {
        black_box(wire::reply(&wire::write(black_box(reply)))?);
    }
    Ok(())
}

fn signatures(life: &Life) -> Result<()> {
    let key = CommandKey::new("guard", [7; 32]);
    let keys: CommandKeys = [key.clone()].into_iter().collect();
    for command in &life.commands {
        let bytes = wire::write(command);
        keys.check(Some(&black_box(key.sign(black_box(&bytes)))), black_box(&bytes))?;
    }
    Ok(())
}

fn rows(life: &Life) -> Result<()> {
    for change in &life.changes {
        black_box(serde_json::from_str::<SagaProgress>(&black_box(&change.saga.state).to_json())?);
        black_box(black_box(&change.entry).body(0));
    }
    Ok(())
}
