//! Every topic of a deployment, from the registry of services and the catalog of workflows.

use amends_kafka::topics::Topic;

use crate::{services::SERVICES, settings::Settings};

/// The topic of the workers' replies.
pub const REPLIES: &str = "saga.replies";

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services;

    fn names() -> Vec<String> {
        let settings = Settings::read(&services::names(), None, &[]).unwrap();
        all(&settings).into_iter().map(|topic| topic.name).collect()
    }

    #[test]
    fn every_topic_is_there_once_with_its_dead_letters() {
        let mut names = names();
        insta::assert_snapshot!(names.join("\n"));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), self::names().len());
    }
}
