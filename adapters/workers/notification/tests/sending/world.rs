//! A database with notifications, and an api that knows a customer.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use amends_notification::{
    Channel, MIGRATOR, NO_SUCH_ORDER, OrderApi, Sender, SendingSettings,
    channels::{
        email::{EmailSettings, SmtpLogin, SmtpUrl, sender},
        sms::SmsSettings,
    },
};
use amends_testkit::{TestDatabase, smtp::SmtpServer};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::net::TcpListener;
use uuid::Uuid;

pub const SERVICE_TOKEN: &str = "service-token-of-a-test";
pub const ORDER: Uuid = Uuid::from_u128(0x01a2_0191_dc04_70a7_b9de_b929_99bc_7f56);
/// Longer than anything takes, even on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);

/// What the api answers; `Null`: there is no such order.
type Known = Arc<Mutex<Value>>;

pub struct World {
    pub database: TestDatabase,
    pub pool: PgPool,
    pub known: Known,
    pub api: SocketAddr,
}

/// How a notification stands.
#[derive(Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Row {
    pub status: String,
    pub reason: Option<String>,
    pub attempts: i32,
    pub address: Option<String>,
    pub preview: Option<String>,
}

impl Row {
    pub fn says(&self) -> (&str, Option<&str>, i32) {
        (&self.status, self.reason.as_deref(), self.attempts)
    }
}

async fn addressee(State(known): State<Known>, headers: HeaderMap) -> Response {
    if headers["authorization"] != format!("Bearer {SERVICE_TOKEN}") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    match known.lock().unwrap().clone() {
        Value::Null => (StatusCode::NOT_FOUND, [(NO_SUCH_ORDER, "true")]).into_response(),
        Value::Number(status) => {
            StatusCode::from_u16(u16::try_from(status.as_u64().unwrap()).unwrap()).unwrap().into_response()
        }
        known => Json(known).into_response(),
    }
}

impl World {
    pub async fn new() -> Self {
        let database = amends_testkit::database(&MIGRATOR, "notification").await;
        let pool = PgPool::connect(&database.role_url("amends_notification")).await.unwrap();
        let known = Arc::new(Mutex::new(json!({
            "isErased": false,
            "contact": { "email": "marker@example.org", "phone": "+4366455566677" },
            "order": { "id": ORDER, "currency": "EUR", "total": 2500, "shipments": [],
                       "lines": [{ "productId": "<mug>", "quantity": 2, "unitPrice": 1250 }] },
        })));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let api = listener.local_addr().unwrap();
        let routes = Router::new().route("/internal/orders/{id}/addressee", get(addressee));
        let routes = routes.with_state(Arc::clone(&known));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { database, pool, known, api }
    }

    /// Queues a notification; returns its id.
    pub async fn queue(&self, event_type: &str, channel: Channel) -> Uuid {
        let id = Uuid::now_v7();
        sqlx::query(
            "INSERT INTO notifications (id, order_id, event_id, event_type, channel, status, due_at, amount, currency)
             VALUES ($1, $2, $1::text, $3, $4, 'QUEUED', clock_timestamp(), 1250, 'EUR')",
        )
        .bind(id)
        .bind(ORDER)
        .bind(event_type)
        .bind(channel.as_str())
        .execute(&self.pool)
        .await
        .unwrap();
        id
    }

    pub fn sender(&self, channel: Channel, settings: &SendingSettings) -> Sender {
        let api = OrderApi::new(&format!("http://{}", self.api), Some(SERVICE_TOKEN.to_owned().into()));
        Sender::new(self.pool.clone(), api.unwrap(), channel, settings).unwrap()
    }

    pub async fn row(&self, id: Uuid) -> Row {
        sqlx::query_as("SELECT status, reason, attempts, address, preview FROM notifications WHERE id = $1")
            .bind(id)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// Lets the time come for everything that is queued, also for what a sender has claimed.
    pub async fn make_due(&self) {
        let sql = "UPDATE notifications SET due_at = clock_timestamp() WHERE due_at IS NOT NULL";
        sqlx::query(sql).execute(&self.pool).await.unwrap();
    }

    /// Lets time pass in which nothing is due yet: a busy machine takes longer than a message rests.
    pub async fn put_off(&self) {
        let sql = "UPDATE notifications SET due_at = due_at + interval '1 hour' WHERE due_at IS NOT NULL";
        sqlx::query(sql).execute(&self.pool).await.unwrap();
    }

    /// Returns the database's time, in seconds.
    pub async fn now(&self) -> f64 {
        let sql = "SELECT extract(epoch FROM clock_timestamp())::float8";
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// Returns when a notification is due, in seconds.
    pub async fn due_at(&self, id: Uuid) -> f64 {
        let sql = "SELECT extract(epoch FROM due_at)::float8 FROM notifications WHERE id = $1";
        sqlx::query_scalar(sql).bind(id).fetch_one(&self.pool).await.unwrap()
    }
}

/// Settings with which nothing is sent.
pub fn silent() -> SendingSettings {
    SendingSettings {
        email: None,
        sms: None,
        locale: "en".to_owned(),
        patience: Duration::from_hours(24),
        keeps_previews: false,
    }
}

/// How long a server or a provider may take that answers: longer than one does on a busy machine.
const PATIENT: Duration = Duration::from_secs(55);
/// How long one may take that hangs: long enough to have got the message, also on a busy machine.
pub const HASTY: Duration = Duration::from_secs(5);

/// Settings of e-mail by this server.
pub fn by_mail(server: &SmtpServer, login: Option<(&str, &str)>) -> SendingSettings {
    by_mail_within(server, login, PATIENT)
}

/// The same, with the time that the server has.
pub fn by_mail_within(
    server: &SmtpServer,
    login: Option<(&str, &str)>,
    timeout: Duration,
) -> SendingSettings {
    let trusted = std::fs::read(server.certificate()).unwrap();
    let email = EmailSettings {
        server: SmtpUrl::parse(&server.url()).unwrap(),
        login: login.map(|(user, password)| SmtpLogin::new(user, password)),
        trusted: Some(trusted),
        from: sender("Shop <orders@shop.example>").unwrap(),
        timeout,
    };
    SendingSettings { email: Some(email), ..silent() }
}

/// Settings of SMS by this webhook.
pub fn by_sms(url: &str) -> SendingSettings {
    by_sms_within(url, PATIENT)
}

/// The same, with the time that the provider has.
pub fn by_sms_within(url: &str, answer_timeout: Duration) -> SendingSettings {
    let sms = SmsSettings {
        url: url.parse().unwrap(),
        secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned().into(),
        answer_timeout,
    };
    SendingSettings { sms: Some(sms), ..silent() }
}
