//! The user and the password with which clients log in: they may change while the clients run.

use std::{
    ffi::{CStr, CString},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use rdkafka::{
    ClientConfig,
    consumer::{Consumer, ConsumerContext, StreamConsumer},
    producer::{BaseProducer, Producer, ProducerContext},
};

use crate::sys;

/// The credentials of all clients that are created with the same settings. Clones are the same.
///
/// A change reaches every client at once, also an idle one, and costs nothing while there is none. Open connections stay:
/// a consumer keeps its partitions. The next connection, and the next login that the broker asks for on an open one, use
/// the new password.
#[derive(Clone, Default)]
pub struct Credentials(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// `None`: those of the settings' properties have not changed.
    changed: Option<UserPassword>,
    /// The clients that outlive a single question.
    clients: Vec<Weak<dyn LogsIn>>,
}

struct UserPassword {
    user: CString,
    password: CString,
}

/// A user or a password contains NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a user and a password of Kafka must be texts without NUL")]
pub struct ContainsNul;

/// A client that logs in.
pub(crate) trait LogsIn: Send + Sync {
    /// Uses these for the next login.
    fn log_in_by(&self, user: &CStr, password: &CStr) -> Result<(), String>;
}

impl<C: ConsumerContext + 'static> LogsIn for StreamConsumer<C> {
    fn log_in_by(&self, user: &CStr, password: &CStr) -> Result<(), String> {
        sys::set_credentials(self.client(), user, password)
    }
}

impl<C: ProducerContext + 'static> LogsIn for BaseProducer<C> {
    fn log_in_by(&self, user: &CStr, password: &CStr) -> Result<(), String> {
        sys::set_credentials(self.client(), user, password)
    }
}

impl Credentials {
    /// Changes the user and the password. It may block for as long as a client takes to close that ends at this moment.
    ///
    /// # Errors
    /// [`ContainsNul`]; nothing has changed.
    pub fn change(&self, user: &str, password: &str) -> Result<(), ContainsNul> {
        let text = |text: &str| CString::new(text).map_err(|_| ContainsNul);
        let login = UserPassword { user: text(user)?, password: text(password)? };
        let mut state = self.state();
        state.clients.retain(|client| client.strong_count() > 0);
        let clients: Vec<_> = state.clients.iter().filter_map(Weak::upgrade).collect();
        for client in &clients {
            give(&**client, &login);
        }
        state.changed = Some(login);
        drop(state);
        // Of a client that has ended meanwhile, this is the last owner: it is closed without the lock.
        drop(clients);
        Ok(())
    }

    /// Replaces the credentials of a new client's properties, if they have changed.
    pub(crate) fn configure(&self, config: &mut ClientConfig) {
        if let Some(UserPassword { user, password }) = &self.state().changed {
            config.set("sasl.username", user.to_string_lossy());
            config.set("sasl.password", password.to_string_lossy());
        }
    }

    /// Makes a client follow changes until it is dropped.
    pub(crate) fn reach<C: LogsIn + 'static>(&self, client: &Arc<C>) {
        let mut state = self.state();
        // They may have changed since the client was configured.
        if let Some(login) = &state.changed {
            give(&**client, login);
        }
        state.clients.retain(|client| client.strong_count() > 0);
        let client: Arc<dyn LogsIn> = client.clone();
        state.clients.push(Arc::downgrade(&client));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn give(client: &dyn LogsIn, login: &UserPassword) {
    if let Err(reason) = client.log_in_by(&login.user, &login.password) {
        tracing::error!(reason, "a Kafka client keeps its old password");
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Contact, KafkaSettings, KafkaSink, KafkaSource};

    /// Remembers what it is to log in by.
    #[derive(Default)]
    struct Client(Mutex<Vec<(String, String)>>);

    impl LogsIn for Client {
        fn log_in_by(&self, user: &CStr, password: &CStr) -> Result<(), String> {
            self.0.lock().unwrap().push(pair(user.to_str().unwrap(), password.to_str().unwrap()));
            Ok(())
        }
    }

    fn given(client: &Client) -> Vec<(String, String)> {
        client.0.lock().unwrap().clone()
    }

    fn pair(user: &str, password: &str) -> (String, String) {
        (user.to_owned(), password.to_owned())
    }

    #[test]
    fn a_change_reaches_the_clients_that_live_and_those_that_come_later() {
        let credentials = Credentials::default();
        let [lives, ends, later] = [(); 3].map(|()| Arc::new(Client::default()));
        credentials.reach(&lives);
        credentials.reach(&ends);
        assert_eq!(given(&lives), [], "a client begins with its properties");
        drop(ends);
        credentials.clone().change("u", "another").unwrap();
        credentials.reach(&later);
        assert_eq!(given(&lives), [pair("u", "another")]);
        assert_eq!(given(&later), given(&lives));
        assert_eq!(credentials.state().clients.len(), 2, "one that has ended is forgotten");

        let mut config = ClientConfig::new();
        config.set("sasl.password", "old");
        credentials.configure(&mut config);
        assert_eq!((config.get("sasl.username"), config.get("sasl.password")), (Some("u"), Some("another")));
    }

    #[tokio::test]
    async fn every_client_that_lives_on_follows_changes() {
        let settings = KafkaSettings::new("127.0.0.1:1");
        let following = || {
            let state = settings.credentials.state();
            state.clients.iter().filter(|client| client.strong_count() > 0).count()
        };
        let source = KafkaSource::subscribe(&settings, "group", &["topic"]).unwrap();
        assert_eq!(following(), 1);
        let _sink = KafkaSink::new(&settings).unwrap();
        assert_eq!(following(), 3, "it has two producers");
        let _events = KafkaSink::of_events(&settings).unwrap();
        assert_eq!(following(), 4);
        let _contact = Contact::new(&settings).unwrap();
        assert_eq!(following(), 5);
        // Real clients take it, and one that is dropped is not kept.
        settings.credentials.change("u", "another").unwrap();
        drop(source);
        let closed = || async { (following() == 4).then_some(()) };
        amends_testkit::eventually("the source is closed", Duration::from_secs(60), closed).await;
    }

    #[test]
    fn what_librdkafka_cannot_take_changes_nothing() {
        let (credentials, client) = (Credentials::default(), Arc::new(Client::default()));
        credentials.reach(&client);
        assert_eq!(credentials.change("u", "a\0b"), Err(ContainsNul));
        assert_eq!(given(&client), []);
        let mut config = ClientConfig::new();
        credentials.configure(&mut config);
        assert_eq!(config.get("sasl.password"), None);
    }

    #[test]
    fn a_password_is_not_shown() {
        let credentials = Credentials::default();
        credentials.change("u", "hunter2").unwrap();
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
