//! The keys in force: read from a JWKS URL or a PEM file, cached, and read again.
//!
//! - They are read again from time to time, so that a key that was withdrawn is forgotten.
//! - A token of an unknown key has a URL read at once, at most once in ten seconds: so a new key works immediately, and a
//!   caller who invents key ids cannot make this process flood the issuer.
//! - While the source is away, or answers something that is no key set, the last good set is kept.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use reqwest::{Client, Url, redirect};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    keys::KeySet,
    refusal::{NotAccepted, Refusal},
    token::UnverifiedToken,
};

/// Interval between two readings of a URL because of unknown keys.
const UNKNOWN_KEY_REST: Duration = Duration::from_secs(10);
/// How long a set from a URL is used before it is read again.
const URL_KEPT: Duration = Duration::from_secs(300);
/// How long a file is used before it is read again.
const FILE_KEPT: Duration = Duration::from_secs(5);
/// Pause after a failed reading.
const FAILED_REST: Duration = Duration::from_secs(2);
/// How long a URL may take to answer.
const ANSWER_LONGEST: Duration = Duration::from_secs(5);
/// The largest key set that is read, in bytes.
const SET_LARGEST: usize = 512 << 10;

/// Where keys come from.
enum Source {
    Url(Url, Client),
    File(PathBuf),
    /// A key of this process.
    Own,
}

/// The keys in force.
pub struct KeyCache {
    source: Source,
    /// `None` until the source has been read once.
    current: RwLock<Option<Arc<KeySet>>>,
    unknown_keys: Arc<Mutex<RefreshLimit>>,
}

/// Limits how often unknown keys cause a reading.
#[derive(Debug, Default)]
struct RefreshLimit {
    last: Option<Instant>,
}

impl RefreshLimit {
    /// Returns whether the source may be read now, and if so takes note of it.
    fn admits(&mut self, now: Instant) -> bool {
        let rests = self.last.is_some_and(|last| now.duration_since(last) < UNKNOWN_KEY_REST);
        if !rests {
            self.last = Some(now);
        }
        !rests
    }
}

impl KeyCache {
    /// Creates a cache of the keys at a URL, which may be away: it is read by [`KeyCache::keep_fresh`], and as soon as
    /// a token needs it.
    ///
    /// # Errors
    /// No HTTP client can be created; for https that needs the system's root certificates.
    pub fn of_url(url: Url) -> Result<Self, reqwest::Error> {
        let client = Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(ANSWER_LONGEST);
        let client = if url.scheme() == "https" { client } else { client.tls_certs_only([]) };
        Ok(Self::of(Source::Url(url, client.build()?), None))
    }

    /// Creates a cache of the key in a PEM file.
    ///
    /// # Errors
    /// The file cannot be read, or is no public key. The text names the path.
    pub fn of_file(path: PathBuf) -> Result<Self, String> {
        let keys = read_file(&path)?;
        Ok(Self::of(Source::File(path), Some(keys)))
    }

    /// Creates a cache of keys that never change.
    pub fn of_keys(keys: KeySet) -> Self {
        Self::of(Source::Own, Some(keys))
    }

    fn of(source: Source, keys: Option<KeySet>) -> Self {
        Self { source, current: RwLock::new(keys.map(Arc::new)), unknown_keys: Arc::default() }
    }

    /// Verifies the signature of a token. Waits for the source only if the token's key is not known.
    pub async fn verify(self: &Arc<Self>, token: &UnverifiedToken<'_>) -> Result<(), NotAccepted> {
        let verified = |keys: Arc<KeySet>| keys.verify(token);
        match self.current().map(verified) {
            Some(Err(Refusal::UnknownKey)) | None => {}
            Some(verified) => return Ok(verified?),
        }
        self.read_for_unknown_key().await;
        match self.current() {
            Some(keys) => Ok(verified(keys)?),
            None => Err(NotAccepted::KeysAway),
        }
    }

    /// Reads the source, unless it was read for an unknown key a moment ago. Others who need it wait for the same
    /// reading, which goes on if the caller goes away.
    async fn read_for_unknown_key(self: &Arc<Self>) {
        if !matches!(self.source, Source::Url(..)) {
            return;
        }
        let mut limit = Arc::clone(&self.unknown_keys).lock_owned().await;
        if limit.admits(Instant::now()) {
            let cache = Arc::clone(self);
            let reading = tokio::spawn(async move {
                if let Err(why) = cache.read().await {
                    tracing::warn!(why, "a token has an unknown key, and the keys cannot be read");
                }
                drop(limit);
            });
            // A panic would have ended the process.
            let _ = reading.await;
        }
    }

    /// Reads the source again and again until stopped.
    pub async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        let kept = match self.source {
            Source::Url(..) => URL_KEPT,
            Source::File(_) => FILE_KEPT,
            Source::Own => return stop.cancelled().await,
        };
        let mut has_failed = false;
        loop {
            let rest = match self.read().await {
                Ok(keys) => {
                    if has_failed {
                        tracing::info!(keys, "the keys of tokens can be read again");
                    }
                    has_failed = false;
                    kept
                }
                Err(why) => {
                    if !has_failed {
                        tracing::warn!(why, "the keys of tokens cannot be read; checking for them continues");
                    }
                    has_failed = true;
                    FAILED_REST
                }
            };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Returns the last set that was read.
    pub(super) fn current(&self) -> Option<Arc<KeySet>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the source. A failure changes nothing. Returns the number of keys.
    pub(crate) async fn read(&self) -> Result<usize, String> {
        let read = match &self.source {
            Source::Url(url, client) => read_url(url, client).await,
            // A small local file, twelve times a minute.
            Source::File(path) => read_file(path),
            Source::Own => return Ok(1),
        };
        let result = if read.is_ok() { "read" } else { "failed" };
        metrics::counter!("amends_auth_key_readings_total", "result" => result).increment(1);
        let keys = read?;
        let count = keys.len();
        metrics::gauge!("amends_auth_keys").set(count as f64);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
        Ok(count)
    }
}

async fn read_url(url: &Url, client: &Client) -> Result<KeySet, String> {
    // Errors of the client name the URL, which is no secret: the settings refuse one with a password.
    let failed = |error: reqwest::Error| format!("setting jwks_url: {error}");
    let mut answer = client.get(url.clone()).send().await.map_err(failed)?;
    if !answer.status().is_success() {
        return Err(format!("setting jwks_url: {url} answered {}", answer.status()));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > SET_LARGEST {
            return Err(format!("setting jwks_url: {url} answered more than {SET_LARGEST} bytes"));
        }
    }
    KeySet::from_jwks(&bytes).map_err(|why| format!("setting jwks_url: {url}: {why}"))
}

fn read_file(path: &PathBuf) -> Result<KeySet, String> {
    let named = |why: String| format!("setting jwt_key_file: {}: {why}", path.display());
    let bytes = fs::read(path).map_err(|error| named(error.to_string()))?;
    KeySet::from_pem(&bytes).map_err(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_cause_one_reading_in_ten_seconds() {
        let (mut limit, begin) = (RefreshLimit::default(), Instant::now());
        let admitted = [0, 1, 9_999, 10_000, 10_001, 25_000, 34_999]
            .map(|millis| limit.admits(begin + Duration::from_millis(millis)));
        assert_eq!(admitted, [true, false, false, true, false, true, false]);
    }
}
