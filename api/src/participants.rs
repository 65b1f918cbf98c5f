//! What the broker and the timelines tell of a worker: how far it is behind, whether it takes commands at all, and when
//! it was last seen to answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use amends_engine::{
    core::Catalog,
    operate::{Surroundings, WorkerProgress},
};
use amends_kafka::{
    Error as BrokerError, KafkaSettings,
    inspect::{self, GroupProgress},
};
use amends_postgres::{Database, Error, last_replies::last_reply_to};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use crate::process;

/// How long the broker may take to answer.
const BROKER_PATIENCE: Duration = Duration::from_secs(2);
/// A worker that is behind is looked at twice, this far apart: one that settles nothing meanwhile takes no commands.
const WATCHED_FOR: Duration = Duration::from_millis(1_500);
/// How long what was found is shown again. However many ask about a worker, the broker is asked once.
const FINDINGS_KEPT: Duration = Duration::from_secs(3);

/// Looks at workers, for those who ask why nothing is happening.
pub struct Participants {
    kafka: KafkaSettings,
    database: Database,
    found: StdMutex<HashMap<String, Found>>,
}

/// What was last found around a worker, and when. The task that looks holds it, and others wait for what is found.
type Found = Arc<Mutex<Option<(Instant, Surroundings)>>>;

impl Participants {
    /// Creates it over this broker and this database.
    pub fn new(kafka: KafkaSettings, database: Database) -> Self {
        Self { kafka, database, found: StdMutex::default() }
    }

    /// Returns what is known around a saga that waits for this worker.
    ///
    /// # Errors
    /// The database's. A broker that does not answer is no error: it is what is found.
    pub async fn around(&self, worker: &str, catalog: &Catalog) -> Result<Surroundings, Error> {
        let found = self.found_of(worker);
        let mut found = found.lock().await;
        if let Some((_, around)) = found.as_ref().filter(|(at, _)| at.elapsed() < FINDINGS_KEPT) {
            return Ok(around.clone());
        }
        let steps: Vec<&str> = catalog
            .iter()
            .flat_map(|definition| &definition.steps)
            .filter(|step| step.participant == worker)
            .map(|step| step.name)
            .collect();
        let last_reply_at = last_reply_to(&self.database, &steps).await?;
        let around = match self.progress(worker).await {
            Ok(progress) => Surroundings {
                is_broker_away: false,
                worker: progress.map(|(progress, is_settling)| WorkerProgress {
                    lag: progress.behind,
                    is_settling,
                    last_reply_at,
                }),
            },
            Err(error) => {
                tracing::debug!(worker, %error, "the broker does not answer");
                Surroundings { is_broker_away: true, worker: None }
            }
        };
        *found = Some((Instant::now(), around.clone()));
        Ok(around)
    }

    fn found_of(&self, worker: &str) -> Found {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.entry(worker.to_owned()).or_default().clone()
    }

    /// Returns how far a worker is, and whether it settles anything; `None` if the broker does not tell.
    async fn progress(&self, worker: &str) -> Result<Option<(GroupProgress, bool)>, BrokerError> {
        let (group, names) = (process::group(worker), [format!("{worker}.commands")]);
        let topics = inspect::topics(&self.kafka, &names, BROKER_PATIENCE).await?;
        let Some(topic) = topics.first() else { return Ok(None) };
        let look = || inspect::progress(&self.kafka, &group, topic, BROKER_PATIENCE);
        let first = match look().await {
            Ok(first) => first,
            // The broker answers, and does not tell: this program may not see the group.
            Err(error) => {
                tracing::debug!(worker, %error, "the broker does not tell how far a worker is");
                return Ok(None);
            }
        };
        if first.behind == 0 {
            return Ok(Some((first, true)));
        }
        sleep(WATCHED_FOR).await;
        let Ok(second) = look().await else { return Ok(None) };
        Ok(Some((second, second.settled > first.settled || second.behind == 0)))
    }
}
