//! The number of domain events of each kind of entry that a landed version has written, in the form in which it is stored:
//! an order's `sequence` is how many events its order had before, counted from its timelines. A program that counted old
//! entries otherwise would number the next events of old orders anew, or leave gaps.
//!
//! `landed_entries.txt` has a line for each entry: workflow, version, number of events, and the body as it is in the
//! database. Lines are added, with a new version or a new kind of entry; no line ever changes.

use std::collections::{BTreeMap, BTreeSet};

use amends_engine::core::Entry;
use amends_workflows::{Settings, all};
use chrono::DateTime;

const LANDED: &str = include_str!("landed_entries.txt");

/// An entry as it was stored.
struct Landed {
    workflow: &'static str,
    version: u32,
    events: u64,
    entry: Entry,
}

fn landed() -> impl Iterator<Item = Landed> {
    let lines = LANDED.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let [workflow, version, events, body] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        Landed {
            workflow,
            version: version.parse().unwrap(),
            events: events.parse().unwrap(),
            entry: Entry::from_stored(1, DateTime::UNIX_EPOCH, body).unwrap(),
        }
    })
}

#[test]
fn an_entry_of_a_landed_version_counts_as_many_events_as_ever() {
    let workflows = all(&Settings::default());
    for Landed { workflow, version, events, entry } in landed() {
        assert_eq!(
            workflows.event_count(workflow, version, &entry),
            events,
            "{workflow}@{version}: {entry:?}"
        );
    }
}

#[test]
fn every_version_and_each_of_its_types_of_events_has_a_landed_entry() {
    let workflows = all(&Settings::default());
    let mut types: BTreeMap<(&str, u32), BTreeSet<String>> = BTreeMap::new();
    for Landed { workflow, version, entry, .. } in landed() {
        let events = workflows.domain_events(workflow, version, uuid::Uuid::nil(), "order", &entry, 0);
        types.entry((workflow, version)).or_default().extend(events.into_iter().map(|event| event.r#type));
    }
    let catalog = workflows.catalog();
    for definition in catalog.iter().filter(|definition| !cfg!(feature = "next") || definition.version == 1) {
        let expected = workflows.newest(definition.name).unwrap().event_types;
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(types.get(&(definition.name, definition.version)), Some(&expected), "{}", definition.name);
    }
}
