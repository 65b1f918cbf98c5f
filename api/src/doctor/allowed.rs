//! Whether a broker with access control allows the user of these settings what its roles need. Only questions are asked.

use std::{collections::BTreeMap, time::Duration};

use amends_kafka::{
    Error, KafkaSettings,
    acls::{self, Acl, Operation, Resource},
};

use super::finding::Finding;
use crate::{settings::Settings, topics};

const SUBJECT: &str = "rights at the broker";
/// How many rights are named; the others are counted.
const NAMED_MOST: usize = 8;

/// What the user may do with each resource of which the broker tells.
#[derive(Debug, Default)]
pub(super) struct Allowed {
    topics: BTreeMap<String, Vec<Operation>>,
    groups: BTreeMap<String, Vec<Operation>>,
}

impl Allowed {
    /// Asks the broker.
    pub(super) async fn read(
        kafka: &KafkaSettings,
        topics: &[String],
        groups: &[String],
        patience: Duration,
    ) -> Result<Self, Error> {
        let topics = acls::allowed(kafka, Resource::Topic, topics, patience).await?;
        // One that does not even say who may see its topics says nothing of groups.
        let groups = match topics.is_empty() {
            true => BTreeMap::new(),
            false => acls::allowed(kafka, Resource::Group, groups, patience).await?,
        };
        Ok(Self { topics, groups })
    }

    fn of(&self, resource: Resource) -> &BTreeMap<String, Vec<Operation>> {
        match resource {
            Resource::Topic => &self.topics,
            Resource::Group => &self.groups,
        }
    }

    /// Returns whether the user may not even see it.
    pub(super) fn hides(&self, resource: Resource, name: &str) -> bool {
        self.of(resource).get(name).is_some_and(Vec::is_empty)
    }

    fn lacks(&self, acl: &Acl) -> bool {
        self.of(acl.resource).get(&acl.name).is_some_and(|allowed| !allowed.contains(&acl.operation))
    }

    /// Judges it. Of a broker that tells nothing there is no finding.
    pub(super) fn finding(&self, settings: &Settings) -> Option<Finding> {
        let roles = roles(settings);
        if roles.is_empty() || self.topics.is_empty() {
            return None;
        }
        let user = settings.kafka_sasl_user.as_deref();
        let mut lacking = Vec::new();
        for role in &roles {
            let principal = user.map_or_else(|| format!("User:amends_{role}"), |user| format!("User:{user}"));
            let of_role =
                topics::acls(
                    settings,
                    |other| if other == *role { principal.clone() } else { String::new() },
                );
            for acl in of_role {
                if acl.principal == principal && self.lacks(&acl) && !lacking.contains(&acl) {
                    lacking.push(acl);
                }
            }
        }
        let who = user.map_or_else(|| "this program".to_owned(), |user| format!("the user {user}"));
        let roles = roles.join(", ");
        if lacking.is_empty() {
            return Some(Finding::good(SUBJECT, format!("{who} may do what its role needs ({roles})")));
        }
        let named = lacking
            .iter()
            .take(NAMED_MOST)
            .map(|acl| format!("{} {} {}", acl.operation, acl.resource, acl.name));
        let rest = match lacking.len().saturating_sub(NAMED_MOST) {
            0 => String::new(),
            rest => format!(", and {rest} more"),
        };
        let found = format!(
            "{who} may not, and its role needs it ({roles}): {}{rest}",
            named.collect::<Vec<_>>().join(", ")
        );
        let entries: Vec<_> = lacking.iter().take(NAMED_MOST).map(ToString::to_string).collect();
        let advice = format!(
            "As an administrator: `amends topics --acls --apply`, or kafka-acls.sh {}{rest}.",
            entries.join("; ")
        );
        Some(Finding::wrong(SUBJECT, found, advice))
    }
}

/// Returns the roles of which the settings' user must be allowed what they need: the one after which it is named, as
/// `amends topics --acls` does, or else each whose database the settings name.
fn roles(settings: &Settings) -> Vec<&'static str> {
    let user = settings.kafka_sasl_user.as_deref().and_then(|user| user.strip_prefix("amends_"));
    if let Some(role) = topics::roles().find(|role| Some(*role) == user) {
        return vec![role];
    }
    let has_database = |role: &&str| {
        // The api's is the engine's, unless it has its own.
        let is_its_own = settings.database_key_of(role) == format!("{role}_database_url");
        is_its_own && settings.database_of(role).is_ok()
    };
    topics::roles().filter(has_database).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{doctor::finding::Grade, services};

    fn settings(flags: &[(&str, &str)]) -> Settings {
        let flags: Vec<_> = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::read(&services::names(), None, &flags).unwrap()
    }

    fn user(name: &str) -> Settings {
        settings(&[("kafka_sasl_user", name), ("kafka_sasl_password", "p"), ("kafka_brokers", "b:1")])
    }

    /// What this role is allowed, if the lists are those that the program prints.
    fn of_role(role: &str) -> Allowed {
        let mut allowed = Allowed::default();
        for acl in topics::acls(&user("x"), str::to_owned) {
            let of = match acl.resource {
                Resource::Topic => &mut allowed.topics,
                Resource::Group => &mut allowed.groups,
            };
            let operations = of.entry(acl.name).or_default();
            if acl.principal == role {
                // The right to read or write includes that to see.
                operations.extend([acl.operation, Operation::Describe]);
            }
        }
        allowed
    }

    #[test]
    fn a_user_is_asked_for_what_the_role_after_which_it_is_named_needs() {
        for role in topics::roles() {
            let finding = of_role(role).finding(&user(&format!("amends_{role}"))).unwrap();
            assert_eq!(finding.grade, Grade::Good, "{finding:?}");
        }
        assert!(of_role("engine").finding(&user("admin")).is_none(), "no setting says for what it is used");
    }

    #[test]
    fn each_right_that_is_not_there_is_named_with_the_entry_that_gives_it() {
        for acl in topics::acls(&user("x"), str::to_owned) {
            let mut allowed = of_role(&acl.principal);
            let of = if acl.resource == Resource::Topic { &mut allowed.topics } else { &mut allowed.groups };
            of.get_mut(&acl.name).unwrap().retain(|operation| *operation != acl.operation);
            let finding = allowed.finding(&user(&format!("amends_{}", acl.principal))).unwrap();
            assert_eq!(finding.grade, Grade::Wrong);
            let named = format!("{} {} {}", acl.operation, acl.resource, acl.name);
            assert!(finding.found.ends_with(&format!(": {named}")), "{}", finding.found);
            let entry = Acl { principal: format!("User:amends_{}", acl.principal), ..acl };
            assert!(finding.advice.unwrap().contains(&entry.to_string()));
        }
    }

    #[test]
    fn a_user_of_another_name_is_asked_for_the_roles_whose_databases_are_set() {
        let url = "postgres://u@h/d";
        let of = |keys: &[&str]| {
            let flags: Vec<_> = keys.iter().map(|key| (*key, url)).collect();
            roles(&settings(&flags))
        };
        assert_eq!(of(&["engine_database_url"]), ["engine"]);
        assert_eq!(of(&["api_database_url", "payment_database_url"]), ["api", "payment"]);
        assert_eq!(of(&[]), [""; 0]);
    }
}
