//! Every topic of a deployment, from the registry of services and the catalog of workflows; and what each role may do with
//! them at a broker with access control.

use amends_kafka::{
    acls::{Acl, Operation, Resource},
    topics::{Topic, dead_letter_topic},
};

use crate::{
    process, roles,
    services::{SERVICES, workers},
    settings::Settings,
};

/// The topic of the workers' replies.
pub const REPLIES: &str = "saga.replies";
/// The role that accepts orders, in the principals of access control.
const API: &str = "api";
/// The role that drives sagas.
const ENGINE: &str = "engine";

/// Returns every topic of a deployment, each with its dead letter topic.
pub fn all(settings: &Settings) -> Vec<Topic> {
    let workflows = amends_workflows::all(&settings.workflows());
    let commands = workflows.participants().into_iter();
    let commands = commands.map(|name| Topic::new(format!("{name}.commands"), settings.command_partitions));
    let replies = Topic::new(REPLIES, settings.reply_partitions);
    let events = workflows.event_types().into_iter().chain(SERVICES.iter().flat_map(|s| s.events).copied());
    let events = events.map(|event_type| Topic::new(event_type, settings.event_partitions));
    let with_dead_letters = |topic: Topic| [topic.dead_letters(), topic];
    commands.chain([replies]).chain(events).flat_map(with_dead_letters).collect()
}

/// Returns the roles that use the broker.
pub fn roles() -> impl Iterator<Item = &'static str> {
    [API, ENGINE].into_iter().chain(workers().map(|worker| worker.name))
}

/// Returns what each role must be allowed, and nothing more. A worker reads its own commands only: those of others contain
/// addresses, and could be answered in the others' place.
pub fn acls(settings: &Settings, principal: impl Fn(&str) -> String) -> Vec<Acl> {
    let workflows = amends_workflows::all(&settings.workflows());
    let participants: Vec<_> = workflows.participants().into_iter().collect();
    let commands = |name: &str| format!("{name}.commands");
    let all_commands = || participants.iter().map(|name| commands(name));
    let mut roles = vec![
        Role {
            name: API,
            writes: all_commands().collect(),
            // It says of a worker how far it is behind.
            sees_groups: participants.iter().map(|name| process::group(name)).collect(),
            ..Role::default()
        },
        Role {
            name: ENGINE,
            reads: vec![REPLIES.to_owned()],
            group: Some(roles::engine::ENGINE_GROUP.to_owned()),
            writes: all_commands().chain(workflows.event_types().into_iter().map(str::to_owned)).collect(),
            ..Role::default()
        },
    ];
    for service in workers() {
        let is_participant = participants.contains(&service.name);
        let reads = is_participant.then(|| commands(service.name)).into_iter();
        let replies = is_participant.then(|| REPLIES.to_owned()).into_iter();
        roles.push(Role {
            name: service.name,
            reads: reads.chain(service.reads.iter().map(|&topic| topic.to_owned())).collect(),
            group: Some(process::group(service.name)),
            writes: replies.chain(service.events.iter().map(|&topic| topic.to_owned())).collect(),
            ..Role::default()
        });
    }
    let names: Vec<String> = all(settings).into_iter().map(|topic| topic.name).collect();
    roles.iter().flat_map(|role| role.acls(&principal(role.name), &names)).collect()
}

/// What a role does with topics.
#[derive(Default)]
struct Role {
    name: &'static str,
    reads: Vec<String>,
    group: Option<String>,
    writes: Vec<String>,
    sees_groups: Vec<String>,
}

impl Role {
    fn acls(&self, principal: &str, all: &[String]) -> Vec<Acl> {
        let acl = |resource, name: &String, operation| Acl {
            principal: principal.to_owned(),
            resource,
            name: name.clone(),
            operation,
        };
        let topic = |operation| move |name: &String| acl(Resource::Topic, name, operation);
        let dead_letters: Vec<_> = self.reads.iter().map(|name| dead_letter_topic(name)).collect();
        // A role that starts looks whether all topics are there.
        let sees = all.iter().map(topic(Operation::Describe));
        let reads = self.reads.iter().map(topic(Operation::Read));
        let joins = self.group.iter().map(|name| acl(Resource::Group, name, Operation::Read));
        let sees_groups = self.sees_groups.iter().map(|name| acl(Resource::Group, name, Operation::Describe));
        let writes = self.writes.iter().chain(&dead_letters).map(topic(Operation::Write));
        sees.chain(sees_groups).chain(reads).chain(joins).chain(writes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services;

    fn settings() -> Settings {
        Settings::read(&services::names(), None, &[]).unwrap()
    }

    fn names() -> Vec<String> {
        all(&settings()).into_iter().map(|topic| topic.name).collect()
    }

    #[test]
    fn every_topic_is_there_once_with_its_dead_letters() {
        let mut names = names();
        insta::assert_snapshot!(names.join("\n"));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), self::names().len());
    }

    #[test]
    fn a_role_may_send_and_receive_what_is_its_own_and_see_the_rest() {
        let acls = acls(&settings(), |role| format!("User:amends_{role}"));
        let own = acls.iter().filter(|acl| acl.operation != Operation::Describe);
        insta::assert_snapshot!(own.map(ToString::to_string).collect::<Vec<_>>().join("\n"));
        let described = acls.iter().filter(|acl| acl.operation == Operation::Describe).count();
        let of_groups: Vec<_> = (acls.iter())
            .filter(|acl| acl.operation == Operation::Describe && acl.resource == Resource::Group)
            .map(|acl| (acl.principal.as_str(), acl.name.as_str()))
            .collect();
        let seen = ["amends-inventory", "amends-payment", "amends-shipment"];
        assert_eq!(of_groups, seen.map(|group| ("User:amends_api", group)));
        assert_eq!(described, names().len() * (workers().count() + 2) + seen.len());
    }

    #[test]
    fn no_worker_reads_or_sends_commands_of_another() {
        for acl in acls(&settings(), str::to_owned) {
            let foreign = workers().any(|other| {
                other.name != acl.principal && acl.name.starts_with(&format!("{}.commands", other.name))
            });
            let is_worker = workers().any(|worker| worker.name == acl.principal);
            assert!(!(foreign && is_worker && acl.operation != Operation::Describe), "{acl}");
        }
    }
}
