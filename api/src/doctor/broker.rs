//! The broker: whether it answers, has the topics, keeps their messages, and how far their readers are behind.

use std::{collections::BTreeMap, time::Duration};

use amends_kafka::{
    KafkaSettings,
    inspect::{self, FoundTopic},
    topics::Topic,
};

use super::finding::Finding;
use crate::{process, roles, services, settings::Settings, topics};

const SUBJECT: &str = "broker";
const PATIENCE: Duration = Duration::from_secs(10);
/// Number of unsettled messages above which a reader is behind.
const LAG_NOTED: i64 = 10_000;
/// A shorter retention deletes commands before a worker is back from an outage.
const RETENTION_LEAST: Duration = Duration::from_secs(24 * 3600);

type Configuration = BTreeMap<String, String>;

/// Looks at the broker.
pub(super) async fn examine(settings: &Settings) -> Vec<Finding> {
    let Ok(brokers) = settings.brokers() else {
        return vec![Finding::skipped(SUBJECT, "kafka_brokers is not set")];
    };
    let kafka = process::kafka(settings, brokers.to_owned());
    let wanted = topics::all(settings);
    let names: Vec<String> = wanted.iter().map(|topic| topic.name.clone()).collect();
    let found = match inspect::topics(&kafka, &names, settings.start_timeout.min(PATIENCE)).await {
        Ok(found) => found,
        Err(error) => {
            let advice = "Check kafka_brokers, and that its advertised address can be reached from here.";
            return vec![Finding::wrong(SUBJECT, error.to_string(), advice)];
        }
    };
    let mut findings = vec![Finding::good(SUBJECT, format!("answers at {brokers}"))];
    let configurations = match inspect::configurations(&kafka, &names, PATIENCE).await {
        Ok(Some(told)) => told,
        Ok(None) => {
            findings.push(Finding::skipped(SUBJECT, "does not tell how its topics are set"));
            BTreeMap::new()
        }
        Err(error) => {
            findings.push(Finding::wrong(SUBJECT, error.to_string(), "See the message."));
            BTreeMap::new()
        }
    };
    for topic in &wanted {
        let state = found.iter().find(|found| found.name == topic.name);
        findings.extend(judged(topic, state, configurations.get(&topic.name)));
    }
    if findings.len() <= 2 {
        findings.push(Finding::good("topics", format!("all {} are there", wanted.len())));
    }
    findings.extend(behind(&kafka, &found).await);
    findings
}

/// Judges a topic.
fn judged(topic: &Topic, found: Option<&FoundTopic>, configuration: Option<&Configuration>) -> Vec<Finding> {
    let subject = format!("topic {}", topic.name);
    let Some(found) = found else {
        return vec![Finding::wrong(
            &subject,
            "is missing",
            "Engines create it within half a minute, if they may.",
        )];
    };
    let mut findings = Vec::new();
    if found.leaderless > 0 {
        let said = format!("{} of its partitions have no leader", found.leaderless);
        findings.push(Finding::wrong(&subject, said, "See the brokers' logs: nothing can be sent there."));
    }
    if found.partitions != topic.partitions {
        let said = format!("has {} partitions; the settings say {}", found.partitions, topic.partitions);
        findings.push(Finding::warning(&subject, said, "It works. Correct the settings, or add partitions."));
    }
    if found.replicas == 1 {
        let said = "has one replica: its messages are lost with its broker";
        let advice = "Keep three. No order is lost: rows are the record, and commands are sent again; domain events can be.";
        findings.push(Finding::warning(&subject, said, advice));
    }
    if found.in_sync < found.replicas {
        let said = format!("{} of {} replicas are in sync", found.in_sync, found.replicas);
        findings.push(Finding::warning(&subject, said, "See whether a broker is down."));
    }
    let Some(configuration) = configuration else { return findings };
    let of = |key: &str| configuration.get(key).map(String::as_str);
    if of("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        let advice = "Set cleanup.policy=delete.";
        findings.push(Finding::wrong(
            &subject,
            "is compacted: of each saga only the last message stays",
            advice,
        ));
    }
    let in_sync_least = of("min.insync.replicas").and_then(|least| least.parse::<usize>().ok());
    match in_sync_least {
        Some(least) if found.replicas > 1 && least < 2 => findings.push(Finding::warning(
            &subject,
            format!("min.insync.replicas is {least}: a message that one broker confirmed can be lost with it"),
            "Set it to 2. No order is lost: rows are the record, and commands are sent again; domain events can be.",
        )),
        Some(least) if least > found.replicas => findings.push(Finding::wrong(
            &subject,
            format!("min.insync.replicas is {least}, and there are {} replicas", found.replicas),
            "Nothing can be sent there: lower it, or add replicas.",
        )),
        _ => {}
    }
    if of("unclean.leader.election.enable") == Some("true") {
        let said = "a replica that is behind may become leader: confirmed messages can be lost";
        findings.push(Finding::warning(&subject, said, "Set unclean.leader.election.enable=false."));
    }
    let retention = of("retention.ms").and_then(|kept| kept.parse::<u64>().ok()).map(Duration::from_millis);
    if let Some(kept) = retention.filter(|kept| *kept < RETENTION_LEAST) {
        let said = format!("keeps messages for {} h", kept.as_secs() / 3_600);
        let advice = "A reader that is away for longer misses domain events. Commands are sent again.";
        findings.push(Finding::warning(&subject, said, advice));
    }
    findings
}

/// Looks at how far the engine and the workers are behind.
async fn behind(kafka: &KafkaSettings, found: &[FoundTopic]) -> Vec<Finding> {
    let workers = services::workers().map(|service| service.name);
    let commands = workers.map(|name| (process::group(name), format!("{name}.commands")));
    let engine = (roles::engine::ENGINE_GROUP.to_owned(), topics::REPLIES.to_owned());
    let mut findings = Vec::new();
    for (group, topic) in [engine].into_iter().chain(commands) {
        let Some(state) = found.iter().find(|state| state.name == topic) else { continue };
        let subject = format!("lag of {group}");
        findings.push(match inspect::lag(kafka, &group, state, PATIENCE).await {
            Ok(lag) if lag > LAG_NOTED => Finding::warning(
                &subject,
                format!("{lag} messages of {topic} are not settled"),
                "See whether it runs and whether its database and what it calls answer; add processes.",
            ),
            Ok(lag) => Finding::good(&subject, format!("{lag} messages of {topic} are not settled")),
            Err(error) => Finding::wrong(&subject, error.to_string(), "See the message."),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Grade;

    fn found() -> FoundTopic {
        FoundTopic { name: "saga.replies".into(), partitions: 12, replicas: 3, in_sync: 3, leaderless: 0 }
    }

    fn configuration(changed: &[(&str, &str)]) -> Configuration {
        let usual = [
            ("cleanup.policy", "delete"),
            ("min.insync.replicas", "2"),
            ("unclean.leader.election.enable", "false"),
            ("retention.ms", "604800000"),
        ];
        usual.iter().chain(changed).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn grades(found: Option<&FoundTopic>, changed: &[(&str, &str)]) -> Vec<Grade> {
        let all = judged(&Topic::new("saga.replies", 12), found, Some(&configuration(changed)));
        assert!(all.iter().all(|finding| finding.advice.is_some()), "{all:?}");
        all.into_iter().map(|finding| finding.grade).collect()
    }

    #[test]
    fn a_topic_that_keeps_its_messages_is_passed_over_in_silence() {
        assert_eq!(grades(Some(&found()), &[]), []);
    }

    #[test]
    fn what_loses_or_stops_messages_is_found() {
        assert_eq!(grades(None, &[]), [Grade::Wrong]);
        assert_eq!(grades(Some(&FoundTopic { leaderless: 1, ..found() }), &[]), [Grade::Wrong]);
        assert_eq!(grades(Some(&FoundTopic { in_sync: 2, ..found() }), &[]), [Grade::Warning]);
        let alone = FoundTopic { replicas: 1, in_sync: 1, ..found() };
        assert_eq!(grades(Some(&alone), &[("min.insync.replicas", "1")]), [Grade::Warning]);
        assert_eq!(grades(Some(&FoundTopic { partitions: 6, ..found() }), &[]), [Grade::Warning]);
        for (key, value, grade) in [
            ("cleanup.policy", "compact", Grade::Wrong),
            ("cleanup.policy", "compact,delete", Grade::Wrong),
            ("min.insync.replicas", "1", Grade::Warning),
            ("min.insync.replicas", "4", Grade::Wrong),
            ("unclean.leader.election.enable", "true", Grade::Warning),
            ("retention.ms", "3600000", Grade::Warning),
        ] {
            assert_eq!(grades(Some(&found()), &[(key, value)]), [grade], "{key}={value}");
        }
    }
}
