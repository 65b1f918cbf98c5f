//! `api/asyncapi.json`: the domain events on Kafka as an AsyncAPI 3.0 document, made from their types and from the list of
//! topics. `UPDATE_ASYNCAPI=1 cargo test -p amends-api --lib asyncapi` writes it anew.
//!
//! A new type of event is a row in [`EVENTS`].

use std::{env, fs, path::Path};

use amends_inventory::events::StockEvent;
use amends_kafka::EVENT_CONTENT_TYPE;
use amends_notification::events::SentEvent;
use amends_workflows::events::DomainEvent;
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{
    services::{self, SERVICES},
    settings::Settings,
};

/// The type that an event is written from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// [`DomainEvent`].
    Order,
    /// [`StockEvent`].
    Stock,
    /// [`SentEvent`].
    Sent,
}

/// A type of event: its name, which is also its topic; the type that it is written from; when it is published; and the
/// fields of its data that are there whenever it is, beside those that every event of its shape has.
type Described = (&'static str, Shape, &'static str, &'static [&'static str]);

const EVENTS: [Described; 13] = [
    ("order.created", Shape::Order, "An order was accepted.", &["status", "order"]),
    ("order.confirmed", Shape::Order, "Stock is reserved for an order.", &["status"]),
    ("order.paid", Shape::Order, "The payment of an order is captured.", &["status"]),
    ("order.fulfilled", Shape::Order, "An order is shipped.", &["status"]),
    ("order.cancel.requested", Shape::Order, "A cancellation of an order was requested.", &[]),
    ("order.cancelled", Shape::Order, "An order is cancelled, and everything is undone.", &["status"]),
    (
        "order.failed",
        Shape::Order,
        "An order has failed, and everything is undone: `status` says at what.",
        &["status"],
    ),
    ("refund.requested", Shape::Order, "The refund of an order that is being undone was requested.", &[]),
    (
        "order.return.requested",
        Shape::Order,
        "A return of pieces of an order was requested.",
        &["status", "return"],
    ),
    ("order.returned", Shape::Order, "A return is done.", &["status"]),
    ("order.refunded", Shape::Order, "Money was paid back, for a return or without one.", &[]),
    ("inventory.updated", Shape::Stock, "Stock was added, reserved, released, taken or returned.", &[]),
    ("notif.sent", Shape::Sent, "A message was handed to the mail server or the SMS provider.", &[]),
];

/// Returns every topic of domain events.
fn topics() -> Vec<&'static str> {
    let settings = Settings::read(&services::names(), None, &[]).expect("the defaults are valid");
    let of_workflows = amends_workflows::all(&settings.workflows()).event_types();
    of_workflows.into_iter().chain(SERVICES.iter().flat_map(|service| service.events).copied()).collect()
}

fn document() -> Value {
    let mut types = SchemaSettings::draft07()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let (mut channels, mut operations, mut messages) = (Map::new(), Map::new(), Map::new());
    for (name, shape, about, always) in EVENTS {
        let at = |section: &str| json!({ "$ref": format!("#/{section}/{name}") });
        let key = match shape {
            Shape::Order | Shape::Sent => "The order's id.",
            Shape::Stock => "A UUID made from the product's id.",
        };
        let channel = json!({
            "address": name,
            "description": about,
            "messages": { name: at("components/messages") },
            "bindings": { "kafka": { "topic": name, "bindingVersion": "0.5.0" } },
        });
        let operation = json!({
            "action": "send",
            "channel": at("channels"),
            "messages": [{ "$ref": format!("#/channels/{name}/messages/{name}") }],
        });
        let message = json!({
            "name": name,
            "title": about.trim_end_matches('.'),
            "contentType": EVENT_CONTENT_TYPE,
            "headers": {
                "type": "object",
                "required": ["content-type"],
                "properties": { "content-type": { "type": "string", "const": EVENT_CONTENT_TYPE } },
            },
            "payload": payload(&mut types, name, shape, always),
            "bindings": { "kafka": {
                "key": { "type": "string", "format": "uuid", "description": key },
                "bindingVersion": "0.5.0",
            } },
        });
        channels.insert(name.to_owned(), channel);
        operations.insert(format!("publish.{name}"), operation);
        messages.insert(name.to_owned(), message);
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Amends: domain events",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What happens to orders and stock, for other systems: one Kafka topic per type, structured \
                            CloudEvents 1.0 in JSON. Delivery is at least once; `id` is the same for every delivery. \
                            `sequence` counts an order's events from 1, over all of its sagas. There is no personal data in \
                            them. Readers ignore fields that they do not know.",
            "license": { "name": env!("CARGO_PKG_LICENSE") },
        },
        "defaultContentType": EVENT_CONTENT_TYPE,
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages, "schemas": types.take_definitions(true) },
    })
}

/// Returns the schema of an event: that of its type, and what this event has in particular.
fn payload(types: &mut SchemaGenerator, name: &str, shape: Shape, always: &[&str]) -> Value {
    let of_type = match shape {
        Shape::Order => types.subschema_for::<DomainEvent>(),
        Shape::Stock => types.subschema_for::<StockEvent>(),
        Shape::Sent => types.subschema_for::<SentEvent>(),
    };
    let mut special = json!({ "properties": { "type": { "const": name } } });
    if !always.is_empty() {
        special["properties"]["data"] = json!({ "required": always });
    }
    json!({ "allOf": [of_type, special] })
}

#[test]
fn the_committed_document_is_what_the_types_of_events_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("asyncapi.json");
    let present = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if env::var_os("UPDATE_ASYNCAPI").is_some() {
        fs::write(&path, &present).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == present,
        "api/asyncapi.json has drifted: UPDATE_ASYNCAPI=1 cargo test -p amends-api --lib asyncapi"
    );
}

#[test]
fn every_topic_of_domain_events_is_described_and_no_other() {
    let (mut described, mut topics) = (EVENTS.map(|(name, ..)| name).to_vec(), topics());
    described.sort_unstable();
    topics.sort_unstable();
    assert_eq!(described, topics, "EVENTS (api/src/asyncapi.rs) lists every type of event");
}

#[test]
fn every_field_that_an_event_always_has_is_a_field_of_its_type() {
    let document = document();
    let fields = &document["components"]["schemas"]["Data"]["properties"];
    for (name, shape, _, always) in EVENTS {
        assert!(shape == Shape::Order || always.is_empty(), "{name}");
        for field in always {
            assert!(fields.get(field).is_some(), "{name} has no {field}");
        }
    }
    for word in ["[`", "::", "Rust", "serde"] {
        assert!(!document.to_string().contains(word), "{word} says nothing to readers of events");
    }
}
