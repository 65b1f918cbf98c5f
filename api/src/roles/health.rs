//! `amends health`: asks a running role whether it is ready. It is for containers, whose image has no other client.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use reqwest::{Client, Url};

use crate::{
    cli::Health,
    routes::health::{LIVE, READY},
};

/// How long an answer may take.
const ANSWER_LONGEST: Duration = Duration::from_secs(5);
/// The address of an api whose setting `listen` is not given.
const USUAL_PORT: u16 = 8080;

/// Returns what the role answers, if it is ready (or alive, if only that is asked).
///
/// # Errors
/// It cannot be reached, or it is not ready; the error says what it answers.
pub async fn ask(options: &Health, listen: Option<SocketAddr>) -> Result<String> {
    let mut url = match &options.url {
        Some(url) => url.clone(),
        None => Url::parse(&format!("http://{}", reachable(listen)))?,
    };
    url.set_path(if options.live { LIVE } else { READY });
    let client = Client::builder().no_proxy().tls_certs_only([]).timeout(ANSWER_LONGEST).build()?;
    let response = client.get(url.clone()).send().await.with_context(|| format!("{url} does not answer"))?;
    let status = response.status();
    let answer = response.text().await.with_context(|| format!("{url} does not answer"))?;
    if !status.is_success() {
        bail!("{url} answers {}: {answer}", status.as_u16());
    }
    Ok(answer)
}

/// Returns the address of this machine on which a role with this setting can be reached.
fn reachable(listen: Option<SocketAddr>) -> SocketAddr {
    let mut address = listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, USUAL_PORT)));
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::StatusCode, routing::get};
    use tokio::net::TcpListener;

    use super::*;

    /// Serves a role that is alive, and whose readiness is this status; returns its address.
    async fn role(readiness: StatusCode) -> SocketAddr {
        let routes = Router::new()
            .route(LIVE, get(async || "live"))
            .route(READY, get(async move || (readiness, "database: down")));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        address
    }

    #[tokio::test]
    async fn a_role_that_is_not_ready_is_an_error_with_its_answer_though_it_is_alive() {
        let address = role(StatusCode::SERVICE_UNAVAILABLE).await;
        let url = Some(Url::parse(&format!("http://{address}")).unwrap());
        let refused = ask(&Health { url: url.clone(), live: false }, None).await.unwrap_err().to_string();
        assert!(refused.contains("503") && refused.contains("database: down"), "{refused}");
        assert_eq!(ask(&Health { url, live: true }, None).await.unwrap(), "live");
    }

    #[tokio::test]
    async fn without_a_url_the_own_address_is_asked_also_where_listen_names_every_address() {
        let mut address = role(StatusCode::OK).await;
        address.set_ip(Ipv4Addr::UNSPECIFIED.into());
        ask(&Health { url: None, live: false }, Some(address)).await.unwrap();
        assert_eq!(reachable(Some("[::]:8080".parse().unwrap())).to_string(), "[::1]:8080");
        assert_eq!(reachable(None).to_string(), "127.0.0.1:8080");
    }

    #[tokio::test]
    async fn a_role_that_does_not_listen_is_an_error_with_its_address() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        let refused = ask(&Health { url: None, live: true }, Some(free)).await.unwrap_err().to_string();
        assert!(refused.contains(&free.to_string()), "{refused}");
    }
}
