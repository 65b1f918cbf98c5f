//! Orders over HTTP: one connection for each request that is under way, kept for the next.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use amends_workflows::order_fulfilment::{CANCELLED, FULFILLED};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, client::conn::http1::SendRequest, http::request};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    ledger::Ledger,
    pace::Pacer,
    shop::{Basket, Shop},
};

/// Requests that are begun at once when many places are free.
const TOGETHER: usize = 64;

/// Number of a customer's orders that a storefront shows.
const LISTED: usize = 20;

type Connection = SendRequest<Full<Bytes>>;

/// The api, and connections to it.
pub struct Http {
    address: SocketAddr,
    host: String,
    /// The header with the token, where the api wants one.
    authorization: Option<String>,
    /// Whether each order is read after it is placed.
    reads: bool,
    idle: Mutex<Vec<Connection>>,
}

impl Http {
    /// No connection yet.
    pub fn new(address: SocketAddr, token: Option<String>, reads: bool) -> Self {
        let authorization = token.map(|token| format!("Bearer {token}"));
        Self { address, host: address.to_string(), authorization, reads, idle: Mutex::default() }
    }

    /// Places orders until it is stopped, then waits for the outstanding answers.
    pub async fn run(
        self: Arc<Self>,
        shop: Shop,
        mut pacer: Pacer,
        ledger: Arc<Ledger>,
        stop: CancellationToken,
    ) {
        let mut orders = JoinSet::new();
        loop {
            let starts = tokio::select! {
                starts = pacer.next(TOGETHER) => starts,
                () = stop.cancelled() => break,
            };
            for from in starts {
                let (http, basket, ledger) = (Arc::clone(&self), shop.next(), Arc::clone(&ledger));
                orders.spawn(async move { http.order(&basket, from, &ledger).await });
            }
            while orders.try_join_next().is_some() {}
        }
        while orders.join_next().await.is_some() {}
    }

    async fn order(&self, basket: &Basket, from: Instant, ledger: &Ledger) {
        let placed = self.place(basket).await;
        ledger.answered(from);
        let id = match placed {
            Ok(id) => id,
            Err(error) => return ledger.failed(format!("{error:#}")),
        };
        ledger.begin(id, from);
        match basket.kind.label() {
            Some(label) => ledger.promise(label),
            None => match self.cancel(id).await {
                Ok(label) => ledger.promise(label),
                Err(error) => ledger.failed(format!("{error:#}")),
            },
        }
        if self.reads
            && let Err(error) = self.read(id, basket, ledger).await
        {
            ledger.missed(format!("{error:#}"));
        }
    }

    /// What a storefront reads after an order: the order, its customer's orders, its timeline, the order again.
    async fn read(&self, id: Uuid, basket: &Basket, ledger: &Ledger) -> Result<()> {
        let order = format!("/api/orders/{id}");
        let list = format!("/api/orders?customerId={}&limit={LISTED}", basket.customer);
        for path in [&order, &list, &format!("{order}/timeline"), &order] {
            let from = Instant::now();
            let request = self.request(Method::GET, path).body(Full::default())?;
            let (status, _) = self.send(request).await?;
            if status != StatusCode::OK {
                bail!("GET of an order, a list or a timeline: {status}");
            }
            ledger.read(from);
        }
        Ok(())
    }

    fn request(&self, method: Method, path: &str) -> request::Builder {
        let request = Request::builder().method(method).uri(path).header("host", &self.host);
        match &self.authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        }
    }

    async fn place(&self, basket: &Basket) -> Result<Uuid> {
        let request = self
            .request(Method::POST, "/api/orders")
            .header("content-type", "application/json")
            .header("idempotency-key", Uuid::new_v4().to_string())
            .body(Full::new(basket.body.clone()))?;
        let (status, body) = self.send(request).await?;
        if status != StatusCode::CREATED {
            bail!("POST /api/orders: {status}");
        }
        id(&body).ok_or_else(|| anyhow!("POST /api/orders: no id in the answer"))
    }

    /// Returns how the order will end.
    async fn cancel(&self, id: Uuid) -> Result<&'static str> {
        let path = format!("/api/orders/{id}");
        let request = self.request(Method::DELETE, &path).body(Full::default())?;
        match self.send(request).await?.0 {
            StatusCode::ACCEPTED => Ok(CANCELLED),
            StatusCode::CONFLICT => Ok(FULFILLED),
            status => bail!("DELETE /api/orders/…: {status}"),
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes)> {
        let mut connection = self.connection().await?;
        let answer = connection.send_request(request).await.context("sending a request")?;
        let status = answer.status();
        let body = answer.into_body().collect().await.context("reading an answer")?.to_bytes();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok((status, body))
    }

    /// Returns the connection that was used last.
    async fn connection(&self) -> Result<Connection> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut connection) = idle else { break };
            if connection.ready().await.is_ok() {
                return Ok(connection);
            }
        }
        let stream = TcpStream::connect(self.address).await.context("connecting to the api")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// The order's id, which the answer begins with.
fn id(body: &[u8]) -> Option<Uuid> {
    let text = body.strip_prefix(br#"{"id":""#)?.get(..36)?;
    Uuid::try_parse_ascii(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_at_the_beginning_of_the_answer() {
        let order = Uuid::now_v7();
        assert_eq!(id(format!(r#"{{"id":"{order}","status":"PENDING"}}"#).as_bytes()), Some(order));
        assert_eq!(id(b"{}"), None);
    }
}
