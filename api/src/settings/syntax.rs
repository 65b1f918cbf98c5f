//! What the text of a setting must look like: URLs, hosts, names.

use secrecy::{ExposeSecret, SecretString};

use super::{Error, refused};

/// Refuses a value that cannot be a claim of a token, or a name.
pub(super) fn claim(key: &str, value: &str) -> Result<(), Error> {
    // A password in a URL would be shown by `amends config`.
    let has_password = value.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
    if has_password || amends_http::text::check(value).is_err() {
        refused(key, "must be 1-200 visible characters, and no URL with a password")?;
    }
    Ok(())
}

/// Refuses a URL that is none of HTTP, or that has a password.
pub(super) fn key_set(key: &str, url: &str) -> Result<(), Error> {
    match reqwest::Url::parse(url) {
        Ok(url)
            if matches!(url.scheme(), "http" | "https")
                && url.username().is_empty()
                && url.password().is_none() =>
        {
            Ok(())
        }
        Ok(_) => refused(key, "must be https://HOST/PATH (or http://), without user and password"),
        Err(error) => refused(key, &format!("is not a URL: {error}")),
    }
}

/// Returns whether a text is a host, with or without a port.
pub(super) fn is_host(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c == '@' || c == '/' || c.is_whitespace())
}

/// Refuses a URL that is none of a Postgres, or whose parameters do not secure what they seem to.
pub(super) fn database(key: &str, url: Option<&SecretString>) -> Result<(), Error> {
    let Some(url) = url else { return Ok(()) };
    match reqwest::Url::parse(url.expose_secret()) {
        Ok(url) if matches!(url.scheme(), "postgres" | "postgresql") => encryption(key, &url),
        Ok(_) => refused(key, "must begin with postgres://"),
        Err(error) => refused(key, &format!("is not a URL: {error}")),
    }
}

/// The client library also trusts the public authorities, beside those of `sslrootcert`. With `verify-ca`, which does not
/// look at the name, any certificate of theirs would be taken.
fn encryption(key: &str, url: &reqwest::Url) -> Result<(), Error> {
    let of = |names: [&str; 2]| url.query_pairs().find(|(name, _)| names.contains(&&**name));
    let mode = of(["sslmode", "ssl-mode"]).map(|(_, mode)| mode.into_owned());
    match mode.as_deref() {
        None | Some("disable" | "prefer" | "require" | "verify-full") => {}
        Some("verify-ca") => {
            refused(key, "sslmode=verify-ca takes the certificate of any server: use verify-full")?
        }
        Some(_) => refused(key, "sslmode must be disable, prefer, require or verify-full")?,
    }
    if of(["sslrootcert", "ssl-root-cert"]).is_some() && mode.as_deref() != Some("verify-full") {
        refused(key, "sslrootcert needs sslmode=verify-full: otherwise no certificate is checked")?;
    }
    if of(["sslcert", "ssl-cert"]).is_some() != of(["sslkey", "ssl-key"]).is_some() {
        refused(key, "sslcert and sslkey must be set together")?;
    }
    Ok(())
}

/// Refuses a URL that is none of a listener of our own.
pub(super) fn listener(key: &str, url: &str) -> Result<(), Error> {
    match reqwest::Url::parse(url) {
        Ok(url) if url.scheme() == "http" && url.username().is_empty() && url.password().is_none() => Ok(()),
        Ok(_) => refused(key, "must be http://HOST:PORT"),
        Err(error) => refused(key, &format!("is not a URL: {error}")),
    }
}
