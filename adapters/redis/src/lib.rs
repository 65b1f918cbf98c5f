//! A Redis that may be away. It holds nothing that is not elsewhere: without it everything is right, and slower. So every
//! call ends soon, and after a failure no other waits for it for a while.
#![warn(missing_docs)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, FromRedisValue, RedisError, TlsCertificates,
    ToRedisArgs, aio::MultiplexedConnection,
};
use tokio::{sync::Mutex, time::timeout};

pub use redis::Script;

/// How long a connection may take to be made, and a call to be answered.
const CALL_LONGEST: Duration = Duration::from_millis(250);
/// How long a connection may take at the start of a process.
const START_LONGEST: Duration = Duration::from_secs(2);
/// What TLS says of a server that is not the one that is meant.
const TLS_REFUSALS: [&str; 3] =
    ["invalid peer certificate", "received fatal alert", "received corrupt message"];
/// How long after a failure Redis is not asked.
const AWAY_PAUSE: Duration = Duration::from_secs(1);

/// Redis has not answered. What was asked may have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Redis is away")]
pub struct Away;

/// The URL is not that of a Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must be redis://HOST:PORT, or rediss:// with TLS, with user, password and database number if needed"
)]
pub struct BadUrl;

/// The Redis of the URL is not the one that is meant, or does not let this program in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

/// A Redis. Clones share a connection.
#[derive(Debug, Clone)]
pub struct Redis(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The authorities (PEM) that alone are trusted, if not the system's.
    authorities: Option<Vec<u8>>,
    link: Mutex<Link>,
}

/// The connection.
struct Link {
    /// Makes the next one.
    client: Client,
    connection: Option<MultiplexedConnection>,
    /// Counts the connections: a call that fails on an old one does not end the new one.
    number: u64,
    /// Redis is not asked until then.
    away_until: Option<Instant>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("number", &self.number).field("away_until", &self.away_until).finish()
    }
}

impl Redis {
    /// Creates a client. It connects when it is first used. With `rediss://` the server's certificate must be of one of
    /// the system's authorities, and for the URL's host.
    ///
    /// # Errors
    /// [`BadUrl`].
    pub fn new(url: &str) -> Result<Self, BadUrl> {
        Self::with(url, None)
    }

    /// Creates a client that trusts these authorities (PEM) and no others.
    ///
    /// # Errors
    /// [`BadUrl`]; a URL without TLS is one too.
    pub fn trusting(url: &str, authorities: Vec<u8>) -> Result<Self, BadUrl> {
        Self::with(url, Some(authorities))
    }

    fn with(url: &str, authorities: Option<Vec<u8>>) -> Result<Self, BadUrl> {
        let client = client(url, authorities.as_ref())?;
        let link = Link { client, connection: None, number: 0, away_until: None };
        Ok(Self(Arc::new(Inner { authorities, link: Mutex::new(link) })))
    }

    /// Makes new connections by another URL. The open one stays if only user and password have changed. A Redis that was
    /// away is tried again at once.
    ///
    /// # Errors
    /// [`BadUrl`]; the old URL stays.
    pub async fn follow(&self, url: &str) -> Result<(), BadUrl> {
        let client = client(url, self.0.authorities.as_ref())?;
        let mut link = self.0.link.lock().await;
        if place(&client) != place(&link.client) {
            link.connection = None;
        }
        link.client = client;
        link.away_until = link.away_until.map(|until| until.min(Instant::now()));
        Ok(())
    }

    /// Connects once, at the start of a process. A Redis that is away is no error.
    ///
    /// # Errors
    /// [`Refused`]: its certificate or the password is wrong, which does not pass by itself.
    pub async fn check(&self) -> Result<(), Refused> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(START_LONGEST));
        let client = self.0.link.lock().await.client.clone();
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        match timeout(START_LONGEST, connecting).await {
            Ok(Err(error)) if is_refusal(&error) => Err(Refused(error.to_string())),
            _ => Ok(()),
        }
    }

    /// Runs a script; everything that it does is one step for all others.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[impl ToRedisArgs],
    ) -> Result<T, Away> {
        let (mut connection, number) = self.connection().await?;
        let mut call = script.prepare_invoke();
        for key in keys {
            call.key(key);
        }
        for argument in arguments {
            call.arg(argument);
        }
        match timeout(CALL_LONGEST, call.invoke_async(&mut connection)).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => Err(self.lost(number, &error.to_string()).await),
            Err(_) => Err(self.lost(number, "no answer in time").await),
        }
    }

    /// Returns the connection and its number; makes it if there is none.
    async fn connection(&self) -> Result<(MultiplexedConnection, u64), Away> {
        let mut link = self.0.link.lock().await;
        if let Some(connection) = &link.connection {
            return Ok((connection.clone(), link.number));
        }
        if link.away_until.is_some_and(|until| Instant::now() < until) {
            return Err(Away);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CALL_LONGEST))
            .set_response_timeout(Some(CALL_LONGEST));
        let connecting = link.client.get_multiplexed_async_connection_with_config(&config);
        let why = match timeout(CALL_LONGEST, connecting).await {
            Ok(Ok(connection)) => {
                if link.away_until.take().is_some() {
                    tracing::info!("Redis is back");
                }
                link.number += 1;
                link.connection = Some(connection.clone());
                return Ok((connection, link.number));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no connection in time".to_owned(),
        };
        link.fail(&why);
        Err(Away)
    }

    async fn lost(&self, number: u64, why: &str) -> Away {
        let mut link = self.0.link.lock().await;
        if link.number == number && link.connection.take().is_some() {
            link.fail(why);
        }
        Away
    }
}

fn client(url: &str, authorities: Option<&Vec<u8>>) -> Result<Client, BadUrl> {
    check_scheme(url)?;
    let client = match authorities {
        Some(authorities) => {
            let root_cert = Some(authorities.clone());
            Client::build_with_tls(url, TlsCertificates { client_tls: None, root_cert })
        }
        None => Client::open(url),
    };
    client.map_err(|_| BadUrl)
}

/// Returns the address and the database that a client connects to, whatever its login.
fn place(client: &Client) -> (&ConnectionAddr, i64) {
    let info = client.get_connection_info();
    (info.addr(), info.redis_settings().db())
}

/// Checks the scheme; with TLS, also lets the TLS library use the cryptography that all of this program uses.
fn check_scheme(url: &str) -> Result<(), BadUrl> {
    // The fragment `#insecure` would accept any certificate.
    match url.split_once("://") {
        Some(("redis", _)) => Ok(()),
        Some(("rediss", rest)) if !rest.contains('#') => {
            // It fails if another part of the program was faster.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            Ok(())
        }
        _ => Err(BadUrl),
    }
}

fn is_refusal(error: &RedisError) -> bool {
    let said = error.to_string();
    error.kind() == ErrorKind::AuthenticationFailed
        || TLS_REFUSALS.iter().any(|refusal| said.contains(refusal))
}

impl Link {
    fn fail(&mut self, why: &str) {
        if self.away_until.is_none() {
            tracing::warn!(why, "Redis is away; everything goes on without it, and slower");
        }
        self.away_until = Some(Instant::now() + AWAY_PAUSE);
    }
}
