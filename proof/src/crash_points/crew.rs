//! One process of each role, one of which is armed; when it dies, an unarmed one takes its place.

use std::{collections::BTreeMap, future::Future, net::SocketAddr, path::Path, pin::pin, time::Duration};

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{Error, scenario::PENDING};
use crate::{
    books,
    campaign::{client::Client, record::Record},
    deployment::{Deployment, Options, Process, ROLES, free_address},
};

const SESSION: &str = "1s";

/// One process of each role, and clients of the apis.
pub struct Crew {
    /// The servers.
    pub deployment: Deployment,
    /// The answers to clients.
    pub record: Record,
    /// Client of the api.
    pub client: Client,
    /// Client of an api whose orders are cancelled if they are pending for [`PENDING`].
    pub hasty: Client,
    /// When the armed process died.
    pub died: Option<Instant>,
    processes: BTreeMap<&'static str, Process>,
    hasty_api: Option<Process>,
    places: BTreeMap<&'static str, (&'static [&'static str], SocketAddr)>,
    armed: Option<&'static str>,
}

impl Crew {
    /// Starts servers and a process of each role, configured such that timers undo an order within seconds.
    pub async fn start(program: &Path) -> Result<Self, Error> {
        let mut options = Options::new(program);
        options.kafka.properties.push("group.min.session.timeout.ms=500".into());
        for (key, value) in [
            ("session_timeout", SESSION),
            ("command_partitions", "2"),
            ("reply_partitions", "2"),
            ("payment_call_timeout", "300ms"),
            ("shipment_call_timeout", "300ms"),
            ("call_lease", "2s"),
            ("start_timeout", "30s"),
        ] {
            options.settings.insert(key.to_owned(), value.to_owned());
        }
        let deployment = Deployment::start(options).await?;
        books::note_events(&deployment.pool("engine")).await?;
        let mut places = BTreeMap::new();
        for role in ROLES.iter() {
            let name = role[role.len() - 1];
            let address = if name == "inventory" { deployment.inventory() } else { free_address()? };
            places.insert(name, (role.as_slice(), address));
        }
        let record = Record::default();
        let hasty = deployment.spawn(&["api"], &[("pending_timeout", "1s")])?;
        debug_assert_eq!(PENDING, Duration::from_secs(1));
        let mut crew = Self {
            client: Client::new(&[places["api"].1], record.clone()),
            hasty: Client::new(&[hasty.address], record.clone()),
            deployment,
            record,
            died: None,
            processes: BTreeMap::new(),
            hasty_api: Some(hasty),
            places,
            armed: None,
        };
        for name in crew.places.keys().copied().collect::<Vec<_>>() {
            crew.spawn(name, None)?;
        }
        for process in crew.processes.values_mut().chain(crew.hasty_api.as_mut()) {
            process.ready().await?;
        }
        crew.client.stock("mug", 1_000_000).await;
        Ok(crew)
    }

    fn spawn(&mut self, name: &'static str, point: Option<&str>) -> Result<(), Error> {
        let (role, address) = self.places[name];
        let point = point.map(|point| ("failpoint", point));
        let process = self.deployment.spawn_at(role, address, point.as_slice())?;
        self.processes.insert(name, process);
        Ok(())
    }

    /// Replaces a role's process by one that dies at this point. A process that was armed before and lives is removed.
    pub async fn arm(&mut self, name: &'static str, point: &str) -> Result<(), Error> {
        if let Some(process) = self.processes.remove(name) {
            process.stop().await;
        }
        self.died = None;
        self.armed = Some(name);
        self.spawn(name, Some(point))?;
        // It may die before it is ready: that is a crash like any other.
        let _ = match self.processes.get_mut(name) {
            Some(process) => process.ready().await,
            None => Ok(()),
        };
        Ok(())
    }

    /// Replaces armed processes by unarmed ones.
    pub async fn disarm(&mut self) -> Result<(), Error> {
        if let Some(name) = self.armed.take()
            && let Some(process) = self.processes.remove(name)
        {
            process.stop().await;
            self.spawn(name, None)?;
        }
        for process in self.processes.values_mut() {
            process.ready().await?;
        }
        Ok(())
    }

    /// Waits for a future, and replaces the armed process as soon as it dies.
    pub async fn meanwhile<T>(&mut self, something: impl Future<Output = T>) -> T {
        let mut something = pin!(something);
        loop {
            tokio::select! {
                done = &mut something => return done,
                () = sleep(Duration::from_millis(10)) => {
                    self.replace();
                }
            }
        }
    }

    /// Waits for this time.
    pub async fn pass(&mut self, time: Duration) {
        self.meanwhile(sleep(time)).await;
    }

    /// Cancels an order; repeats the request until it is answered.
    pub async fn cancel(&mut self, id: Uuid) {
        let client = self.client.clone();
        self.meanwhile(client.cancel(id)).await;
    }

    /// Replaces the armed process if it is dead; returns whether it was.
    fn replace(&mut self) -> bool {
        let Some(name) = self.armed else { return false };
        let dead = self.processes.get_mut(name).is_some_and(|process| !process.is_running());
        if dead {
            self.died = Some(Instant::now());
            self.armed = None;
            if let Err(error) = self.spawn(name, None) {
                self.record.odd(format!("{name} could not be started again: {error}"));
            }
        }
        dead
    }

    /// SIGSTOP of a live process: one that has just died is replaced first.
    pub async fn freeze(&mut self, name: &str) {
        while let Some(process) = self.processes.get_mut(name) {
            let ready = process.ready().await.is_ok();
            let replaced = self.replace();
            if ready || !replaced {
                break;
            }
        }
        if let Some(process) = self.processes.get(name) {
            process.freeze();
        }
    }

    /// SIGCONT.
    pub fn thaw(&self, name: &str) {
        if let Some(process) = self.processes.get(name) {
            process.thaw();
        }
    }

    /// Ends everything.
    pub async fn end(mut self) {
        self.processes.clear();
        self.hasty_api = None;
        self.deployment.stop().await;
    }
}
