//! One attempt: a request to a receiver that may be slow, hostile or somewhere else than it says.

use std::{error::Error as StdError, io, sync::Arc, time::Duration};

use reqwest::{
    Certificate, Client, Response,
    header::{CONTENT_TYPE, USER_AGENT},
    redirect::Policy,
};
use rustls::CertificateError;
use tokio::time::{Instant, timeout_at};

use crate::{
    Reach, Resolver, SigningSecret,
    resolver::{ClosedAddress, Guarded},
    signature,
    target::target,
};

/// The most that is read of an answer's body; the connection is then closed.
const ANSWER_READ: usize = 16 << 10;
/// The number of characters of an answer's body that are kept.
const ANSWER_KEPT: usize = 1_000;
/// Not part of what is signed.
const TRACEPARENT: &str = "traceparent";
const USER_AGENT_VALUE: &str = concat!("Amends/", env!("CARGO_PKG_VERSION"));

/// Sends webhooks.
#[derive(Debug, Clone)]
pub struct Sender {
    http: Client,
    reach: Reach,
    timeout: Duration,
}

/// A message, as it is signed and sent.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its id, the same at each attempt.
    pub id: &'a str,
    /// The time of the attempt, in seconds since 1970.
    pub timestamp: i64,
    /// JSON.
    pub body: &'a [u8],
    /// W3C trace context.
    pub traceparent: Option<&'a str>,
}

/// A receiver's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The beginning of the body, as text.
    pub body: String,
}

/// Why there was no answer. The text is for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendFault {
    /// The URL may not be used, or its name leads to an address that may not be reached.
    #[error("refused: the host has an address that is not public, or the URL is not allowed")]
    Closed,
    /// The name has no address.
    #[error("the host's name could not be resolved")]
    Unresolved,
    /// Its certificate is not accepted.
    #[error("the receiver's certificate is refused: {0}")]
    Certificate(CertificateFault),
    /// No connection, or no TLS.
    #[error("no connection could be made")]
    Unconnected,
    /// It did not answer in time.
    #[error("no answer in time")]
    Late,
    /// The connection broke, or the answer is not HTTP.
    #[error("the connection broke before an answer")]
    Broken,
}

/// What is wrong with a receiver's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// No authority that is trusted has signed it.
    #[error("no authority that is trusted has signed it")]
    Issuer,
    /// It is not valid any more, or not yet.
    #[error("it is not valid at this time")]
    Time,
    /// It is for another host.
    #[error("it is for another host")]
    Host,
    /// Anything else.
    #[error("it is malformed, revoked or not for servers")]
    Other,
}

/// A sender cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    /// There is no HTTP client: a fault of the system's certificates, or of those that are trusted too.
    #[error(transparent)]
    Client(#[from] reqwest::Error),
    /// There is no certificate in what is to be trusted too.
    #[error("contains no certificate in PEM")]
    NoCertificate,
}

impl Sender {
    /// Creates a sender that looks names up by this resolver, and waits this long for an answer.
    ///
    /// # Errors
    /// [`SenderError`].
    pub fn new(resolver: Arc<dyn Resolver>, reach: Reach, timeout: Duration) -> Result<Self, SenderError> {
        Self::with_authorities(resolver, reach, timeout, &[])
    }

    /// The same, which trusts the authorities in this PEM in addition to those of the system.
    ///
    /// # Errors
    /// [`SenderError`].
    pub fn trusting(
        resolver: Arc<dyn Resolver>,
        reach: Reach,
        timeout: Duration,
        pem: &[u8],
    ) -> Result<Self, SenderError> {
        match Certificate::from_pem_bundle(pem)?.as_slice() {
            [] => Err(SenderError::NoCertificate),
            authorities => Self::with_authorities(resolver, reach, timeout, authorities),
        }
    }

    fn with_authorities(
        resolver: Arc<dyn Resolver>,
        reach: Reach,
        timeout: Duration,
        authorities: &[Certificate],
    ) -> Result<Self, SenderError> {
        let http = Client::builder()
            .tls_certs_merge(authorities.iter().cloned())
            .dns_resolver(Arc::new(Guarded { resolver, reach }))
            .redirect(Policy::none())
            .no_proxy()
            // A connection that is kept would go to an address that was checked for an earlier delivery.
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { http, reach, timeout })
    }

    /// Sends a message, signed by each of these secrets, and returns the receiver's answer, whatever it says.
    ///
    /// # Errors
    /// [`SendFault`].
    pub async fn send(
        &self,
        url: &str,
        secrets: &[SigningSecret],
        Message { id, timestamp, body, traceparent }: Message<'_>,
    ) -> Result<Answer, SendFault> {
        // The settings may have changed since it was registered. The client looks up no addresses, so they are checked here.
        let url = target(url, self.reach).map_err(|_| SendFault::Closed)?;
        let until = Instant::now() + self.timeout;
        let mut request = self
            .http
            .post(url)
            .header(USER_AGENT, USER_AGENT_VALUE)
            .header(CONTENT_TYPE, "application/json")
            .header(signature::ID, id)
            .header(signature::TIMESTAMP, timestamp.to_string())
            .header(signature::SIGNATURE, signature::signatures(secrets, id, timestamp, body))
            .body(body.to_vec());
        if let Some(traceparent) = traceparent {
            request = request.header(TRACEPARENT, traceparent);
        }
        let answer = timeout_at(until, request.send()).await.map_err(|_| SendFault::Late)?;
        let answer = answer.map_err(|error| fault_of(&error))?;
        Ok(Answer { status: answer.status().as_u16(), body: beginning(answer, until).await })
    }
}

/// Reads the beginning of a body. The status counts, whatever happens to the body.
async fn beginning(mut answer: Response, until: Instant) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_READ
        && let Ok(Ok(Some(chunk))) = timeout_at(until, answer.chunk()).await
    {
        bytes.extend_from_slice(&chunk[..chunk.len().min(ANSWER_READ - bytes.len())]);
    }
    // Postgres stores no U+0000.
    String::from_utf8_lossy(&bytes).chars().filter(|character| *character != '\0').take(ANSWER_KEPT).collect()
}

fn fault_of(error: &reqwest::Error) -> SendFault {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<ClosedAddress>() {
            return SendFault::Closed;
        }
        if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
            return SendFault::Certificate(certificate_fault(why));
        }
        // An I/O error's source is that of the error in it, which would be left out.
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = within.map_or_else(|| error.source(), |within| Some(within));
    }
    match error {
        error if error.is_timeout() => SendFault::Late,
        error if error.is_dns() => SendFault::Unresolved,
        error if error.is_connect() => SendFault::Unconnected,
        _ => SendFault::Broken,
    }
}

fn certificate_fault(why: &CertificateError) -> CertificateFault {
    match why {
        CertificateError::UnknownIssuer => CertificateFault::Issuer,
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => CertificateFault::Time,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            CertificateFault::Host
        }
        _ => CertificateFault::Other,
    }
}
