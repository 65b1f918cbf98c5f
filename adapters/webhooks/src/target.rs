//! Which URLs a webhook may have. Names are looked up at each delivery, not here.

use std::net::IpAddr;

use reqwest::{Url, header::HeaderValue};

use crate::address::is_public;

/// The longest URL, in bytes.
pub const URL_LONGEST: usize = 2_000;
/// The lowest port that is not one of a system service.
const FIRST_FREE_PORT: u16 = 1024;
const HTTPS_PORT: u16 = 443;

/// Where webhooks may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// By HTTPS to public addresses.
    Public,
    /// Also by HTTP, and to private addresses.
    Anywhere,
}

/// Why a URL is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetFault {
    /// It is none.
    #[error("must be a URL with a host, of at most 2000 visible ASCII characters")]
    Url,
    /// It has another scheme.
    #[error("must begin with https://")]
    Scheme,
    /// It has another scheme, where HTTP is allowed.
    #[error("must begin with https:// or http://")]
    SchemeAnywhere,
    /// It contains a user or password.
    #[error("must contain no user and no password")]
    User,
    /// It contains a fragment, which is never sent.
    #[error("must contain no fragment")]
    Fragment,
    /// Its port is that of another service.
    #[error("must have port 443, or a port from 1024 on")]
    Port,
    /// Its host is an address of a private network, or a name of this machine.
    #[error("must not lead to a private, loopback or link-local address")]
    Address,
}

/// Reads the URL of a webhook.
///
/// # Errors
/// [`TargetFault`].
pub fn target(text: &str, reach: Reach) -> Result<Url, TargetFault> {
    // The parser would remove tabs and line breaks.
    let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_visible || !(1..=URL_LONGEST).contains(&text.len()) || HeaderValue::from_str(text).is_err() {
        return Err(TargetFault::Url);
    }
    let url = Url::parse(text).map_err(|_| TargetFault::Url)?;
    match (url.scheme(), reach) {
        ("https", _) | ("http", Reach::Anywhere) => {}
        (_, Reach::Public) => return Err(TargetFault::Scheme),
        (_, Reach::Anywhere) => return Err(TargetFault::SchemeAnywhere),
    }
    if !url.username().is_empty() || url.password().is_some() || authority(text).contains('@') {
        return Err(TargetFault::User);
    }
    if url.fragment().is_some() {
        return Err(TargetFault::Fragment);
    }
    let port = url.port_or_known_default().unwrap_or_default();
    if port == 0 || (reach == Reach::Public && port != HTTPS_PORT && port < FIRST_FREE_PORT) {
        return Err(TargetFault::Port);
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(TargetFault::Url)?;
    if reach == Reach::Public && !may_be_public(host) {
        return Err(TargetFault::Address);
    }
    Ok(url)
}

/// Returns the part between the scheme and the path, in which `@` ends a user.
fn authority(text: &str) -> &str {
    let behind = text.split_once("://").map_or(text, |(_, behind)| behind);
    behind.split(['/', '\\', '?', '#']).next().unwrap_or_default()
}

/// Returns the address of a URL's host, if it is one and no name.
pub fn address_of(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn may_be_public(host: &str) -> bool {
    if let Some(address) = address_of(host) {
        return is_public(address);
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    // A name without a dot is one of the own network.
    name.contains('.') && name != "localhost" && !name.ends_with(".localhost") && !name.ends_with(".local")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_public_hosts_are_taken() {
        for text in [
            "https://hooks.shop.example/amends",
            "https://hooks.shop.example:8443/a?b=c@d",
            "https://1.1.1.1/",
            "https://[2606:4700:4700::1111]/",
            "https://xn--bcher-kva.example/",
        ] {
            assert!(target(text, Reach::Public).is_ok(), "{text}");
        }
        for text in ["http://127.0.0.1:9/x", "http://localhost:8080", "https://10.0.0.1", "http://[::1]/"] {
            assert!(target(text, Reach::Anywhere).is_ok(), "{text}");
        }
    }

    #[test]
    fn every_other_url_is_refused_with_its_reason() {
        use TargetFault::{Address, Fragment, Port, Scheme, Url, User};
        for (text, fault) in [
            ("", Url),
            ("hooks.shop.example", Url),
            ("https://", Url),
            ("https://a b.example/", Url),
            ("https://shop.example/a\nb", Url),
            ("https://b\u{fc}cher.example/", Url),
            ("http://shop.example/", Scheme),
            ("ftp://shop.example/", Scheme),
            ("file:///etc/passwd", Scheme),
            ("javascript:alert(1)", Scheme),
            ("https://user:password@shop.example/", User),
            ("https://user@shop.example/", User),
            ("https://@shop.example/", User),
            ("https://shop.example/#a", Fragment),
            ("https://shop.example:22/", Port),
            ("https://shop.example:80/", Port),
            ("https://shop.example:0/", Port),
            ("https://127.0.0.1/", Address),
            ("https://127.1/", Address),
            ("https://0x7f000001/", Address),
            ("https://2130706433/", Address),
            ("https://017700000001/", Address),
            ("https://169.254.169.254/latest/meta-data", Address),
            ("https://[::1]/", Address),
            ("https://[::ffff:10.0.0.1]/", Address),
            ("https://localhost/", Address),
            ("https://LOCALHOST./", Address),
            ("https://a.localhost/", Address),
            ("https://printer.local/", Address),
            ("https://postgres/", Address),
        ] {
            assert_eq!(target(text, Reach::Public), Err(fault), "{text}");
        }
        let long = format!("https://shop.example/{}", "a".repeat(URL_LONGEST));
        assert_eq!(target(&long, Reach::Anywhere), Err(Url));
        assert_eq!(target("https://user@10.0.0.1/", Reach::Anywhere), Err(User));
        assert_eq!(target("ftp://10.0.0.1/", Reach::Anywhere), Err(TargetFault::SchemeAnywhere));
    }
}
