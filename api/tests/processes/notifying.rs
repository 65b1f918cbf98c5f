//! Notifications, from the event to the mail server and to `/api/notifications`.

use amends_api::auth::Role;
use amends_testkit::{
    eventually,
    smtp::{SmtpSecurity, SmtpServer},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    books,
    support::{
        LONG, Process, SERVICE_TOKEN, Stack,
        client::order,
        clients,
        issuer::token,
        load,
        shop::{Shop, read},
    },
};

const FROM: &str = "Shop <orders@shop.example>";

/// Lets every process that is started from now on send by this server.
fn send_by(stack: &mut Stack, server: &SmtpServer) {
    stack.set("AMENDS_SMTP_URL", &server.url());
    stack.set("AMENDS_SMTP_CA_FILE", server.certificate().to_str().unwrap());
    stack.set("AMENDS_MAIL_FROM", FROM);
}

/// Returns how many of these notifications have each status, as `email SENT`.
fn counted(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap().iter();
    let mut all: Vec<String> = items
        .map(|n| {
            let text = |field: &str| n[field].as_str().unwrap_or("-").to_owned();
            format!("{} {} {} {}", text("type"), text("channel"), text("status"), text("reason"))
        })
        .collect();
    all.sort();
    all
}

impl Shop {
    /// Places an order of this customer, who can be reached by e-mail.
    async fn place_with_contact(&self, customer: &str) -> String {
        let mut body = order("mug", 1, "card_approved", "AT");
        body["customerId"] = json!(customer);
        body["contact"] = json!({ "email": format!("{customer}@example.org") });
        let placed = self.ask(Method::POST, "/api/orders", Some(&token("shop", &[Role::Storefront])));
        let (status, placed) = read(placed.json(&body).send().await.unwrap()).await;
        assert_eq!(status, 201, "{placed}");
        placed["id"].as_str().unwrap().to_owned()
    }

    /// Starts what carries orders out.
    async fn carry_out(&self) -> Vec<Process> {
        let mut processes = Vec::new();
        for role in
            [&["engine"][..], &["worker", "inventory"], &["worker", "payment"], &["worker", "shipment"]]
        {
            processes.push(self.stack.start(role).await);
        }
        self.stack.stock("mug", 100).await;
        processes
    }

    /// Waits until an order's notifications are these.
    async fn told(&self, order: &str, caller: &str, expected: &[&str]) -> Value {
        let (path, what) = (format!("/api/notifications?orderId={order}"), format!("{expected:?}"));
        eventually(&what, LONG, || async {
            let (status, page) = self.get(&path, caller).await;
            (status == 200 && counted(&page) == expected).then_some(page)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_is_told_by_mail_and_reads_own_notifications_and_nobody_elses() {
    let server = SmtpServer::start(SmtpSecurity::StartTls, None);
    let mut shop = Shop::open().await;
    send_by(&mut shop.stack, &server);
    let _worker = shop.stack.start(&["worker", "notification"]).await;
    let _others = shop.carry_out().await;
    let (of_a, of_b) = (shop.place_with_contact("c-a").await, shop.place_with_contact("c-b").await);
    let (a, b) = (token("c-a", &[Role::Customer]), token("c-b", &[Role::Customer]));
    let told = [
        "order.created email SENT -",
        "order.created sms SKIPPED not_configured",
        "order.fulfilled email SENT -",
        "order.fulfilled sms SKIPPED not_configured",
    ];
    let page = shop.told(&of_a, &a, &told).await;
    shop.told(&of_b, &b, &told).await;
    let sent = page["items"].as_array().unwrap().iter().find(|n| n["status"] == "SENT").unwrap();
    assert_eq!(sent["address"], "c***@e***.org", "{sent}");
    assert!(!sent["sentAt"].is_null() && sent["orderId"] == json!(of_a), "{sent}");
    let to_a: Vec<Value> =
        server.messages().into_iter().filter(|mail| mail["to"] == json!(["c-a@example.org"])).collect();
    assert_eq!(to_a.len(), 2);
    let id = sent["id"].as_str().unwrap();
    assert!(to_a.iter().any(|mail| mail["content"].as_str().unwrap().contains(id)), "the message has its id");

    let path = format!("/api/notifications/{id}");
    assert_eq!(shop.get(&path, &a).await, (200, sent.clone()));
    for (caller, status) in
        [(&b, 404), (&token("shop", &[Role::Storefront]), 200), (&token("vera", &[Role::Viewer]), 200)]
    {
        assert_eq!(shop.get(&path, caller).await.0, status);
        assert_eq!(shop.get(&format!("/api/notifications?orderId={of_a}"), caller).await.0, status);
    }
    let owns = async |caller: &str, query: &str| {
        let (status, page) = shop.get(&format!("/api/notifications{query}"), caller).await;
        assert_eq!(status, 200, "{page}");
        page
    };
    let own = owns(&b, "").await;
    assert_eq!((counted(&own), &own["next"]), (told.map(str::to_owned).to_vec(), &Value::Null));
    assert!(own["items"].as_array().unwrap().iter().all(|n| n["orderId"] == json!(of_b)), "{own}");
    let nobody = owns(&token("c-z", &[Role::Customer]), "").await;
    assert_eq!(nobody, json!({ "items": [], "next": null }));
    let viewer = token("vera", &[Role::Viewer]);
    assert_eq!(owns(&viewer, "").await["items"].as_array().unwrap().len(), 8);
    assert_eq!(counted(&owns(&viewer, "?status=FAILED").await), Vec::<String>::new());
    assert_eq!(owns(&viewer, "?status=SENT").await["items"].as_array().unwrap().len(), 4);

    // Page by page it is the same, each once.
    let (mut walked, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let page = owns(&viewer, &query).await;
        walked.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?limit=3&cursor={next}");
    }
    assert_eq!(json!(walked), owns(&viewer, "").await["items"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_that_hangs_delays_no_order_and_no_record() {
    let server = SmtpServer::start(SmtpSecurity::Plain, None);
    server.answers("rcpt", Some("hang"));
    let mut shop = Shop::open().await;
    send_by(&mut shop.stack, &server);
    let _worker = shop.stack.start(&["worker", "notification"]).await;
    let _others = shop.carry_out().await;
    let order = shop.place_with_contact("c-a").await;
    let queued = [
        "order.created email QUEUED",
        "order.created sms SKIPPED",
        "order.fulfilled email QUEUED",
        "order.fulfilled sms SKIPPED",
    ];
    let (path, customer) = (format!("/api/notifications?orderId={order}"), token("c-a", &[Role::Customer]));
    eventually("both events are recorded", LONG, || async {
        let (_, page) = shop.get(&path, &customer).await;
        // On a busy machine an attempt may have ended with its time, and another one begun.
        let all = counted(&page);
        let without_reason: Vec<&str> = all.iter().map(|line| line.rsplit_once(' ').unwrap().0).collect();
        (without_reason == queued).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_of_the_mail_server_in_its_file_counts_without_a_restart() {
    let server = SmtpServer::start(SmtpSecurity::Tls, Some(("shop", "s3cret")));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("smtp-password");
    std::fs::write(&file, "s3cret\n").unwrap();
    let mut shop = Shop::open().await;
    send_by(&mut shop.stack, &server);
    shop.stack.set("AMENDS_SMTP_USER", "shop");
    shop.stack.set("AMENDS_SMTP_PASSWORD_FILE", file.to_str().unwrap());
    let _worker = shop.stack.start(&["worker", "notification"]).await;
    let _engine = shop.stack.start(&["engine"]).await;
    let viewer = token("vera", &[Role::Viewer]);
    let told = |email: &'static str| [email, "order.created sms SKIPPED not_configured"];
    let first = shop.place_with_contact("c-a").await;
    shop.told(&first, &viewer, &told("order.created email SENT -")).await;

    server.requires("shop", "another");
    let second = shop.place_with_contact("c-b").await;
    shop.told(&second, &viewer, &told("order.created email QUEUED smtp_535")).await;
    std::fs::write(&file, "another\n").unwrap();
    shop.told(&second, &viewer, &told("order.created email SENT -")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_erased_before_it_was_sent_is_never_mailed() {
    let server = SmtpServer::start(SmtpSecurity::Plain, None);
    server.answers("rcpt", Some("451 later"));
    let mut shop = Shop::open().await;
    send_by(&mut shop.stack, &server);
    let _worker = shop.stack.start(&["worker", "notification"]).await;
    let _others = shop.carry_out().await;
    let order = shop.place_with_contact("c-a").await;
    let deferred = [
        "order.created email QUEUED smtp_451",
        "order.created sms SKIPPED not_configured",
        "order.fulfilled email QUEUED smtp_451",
        "order.fulfilled sms SKIPPED not_configured",
    ];
    let viewer = token("vera", &[Role::Viewer]);
    shop.told(&order, &viewer, &deferred).await;
    // What is being sent while data is erased may arrive. A message that is claimed is due two minutes later.
    let put_off = "UPDATE notifications SET due_at = clock_timestamp() + interval '1 hour'
                   WHERE due_at < clock_timestamp() + interval '100 seconds'";
    let are_put_off =
        "SELECT count(*) FROM notifications WHERE due_at > clock_timestamp() + interval '30 minutes'";
    eventually("no attempt is under way, and none begins", LONG, || async {
        let pool = shop.stack.pool("notification");
        sqlx::query(put_off).execute(pool).await.unwrap();
        let count: i64 = sqlx::query_scalar(are_put_off).fetch_one(pool).await.unwrap();
        (count == 2).then_some(())
    })
    .await;
    let erase =
        shop.ask(Method::DELETE, "/api/customers/c-a/personal-data", Some(&token("ada", &[Role::Admin])));
    assert_eq!(erase.send().await.unwrap().status(), 200);
    server.answers("rcpt", None);
    let due = "UPDATE notifications SET due_at = clock_timestamp() WHERE due_at IS NOT NULL";
    sqlx::query(due).execute(shop.stack.pool("notification")).await.unwrap();
    let erased = deferred.map(|line| line.replace("QUEUED smtp_451", "SKIPPED erased"));
    shop.told(&order, &viewer, &erased.each_ref().map(String::as_str)).await;
    assert_eq!(server.messages(), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_messages_are_kept_to_be_looked_at_operators_read_them_and_customers_do_not() {
    let mut shop = Shop::open().await;
    shop.stack.set("AMENDS_NOTIFICATION_PREVIEWS", "true").set("AMENDS_NOTIFICATION_LOCALE", "de");
    let _worker = shop.stack.start(&["worker", "notification"]).await;
    let _engine = shop.stack.start(&["engine"]).await;
    let order = shop.place_with_contact("c-a").await;
    let expected = ["order.created email SKIPPED not_configured", "order.created sms SKIPPED no_contact"];
    let customer = token("c-a", &[Role::Customer]);
    let page = shop.told(&order, &customer, &expected).await;
    let email = page["items"].as_array().unwrap().iter().find(|n| n["channel"] == "email").unwrap();
    let path = format!("/api/notifications/{}", email["id"].as_str().unwrap());
    let (_, shown) = shop.get(&path, &token("olga", &[Role::Operator])).await;
    assert_eq!(shown["preview"]["subject"], "Wir haben Ihre Bestellung erhalten", "{shown}");
    assert!(shown["preview"]["text"].as_str().unwrap().contains(&order), "{shown}");
    for caller in [customer, token("vera", &[Role::Viewer]), token("shop", &[Role::Storefront])] {
        let (status, shown) = shop.get(&path, &caller).await;
        assert_eq!((status, shown.get("preview")), (200, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contact_is_told_to_the_notification_worker_alone_and_its_own_port_serves_the_api_alone() {
    let shop = Shop::open().await;
    let order = shop.place_with_contact("c-a").await;
    let worker = shop.stack.start(&["worker", "notification"]).await;
    let path = format!("/internal/orders/{order}/addressee");
    let service = "service-token-of-a-test";
    let admin = token("ada", &Role::ALL);
    for wrong in [None, Some(admin.as_str()), Some("service-token-of-a-tes")] {
        let answer = shop.ask(Method::GET, &path, wrong).send().await.unwrap();
        let (status, problem) = read(answer).await;
        assert_eq!((status, &problem["type"]), (401, &json!("/problems/service-token")), "{problem}");
        for path in ["/api/notifications", &format!("/api/notifications/{order}")] {
            let request = reqwest::Client::new().get(format!("http://{}{path}", worker.address));
            let request = match wrong {
                Some(token) => request.bearer_auth(token),
                None => request,
            };
            assert_eq!(request.send().await.unwrap().status(), 401, "{path}");
        }
    }
    let (status, told) = shop.get(&path, service).await;
    assert_eq!((status, &told["contact"]["email"]), (200, &json!("c-a@example.org")), "{told}");
    assert!(!told.to_string().contains("Long Street"), "{told}");
    assert_eq!(shop.get("/internal/orders/x/addressee", service).await.0, 400);
    let nobody = "/internal/orders/01a20191-dc04-70a7-b9de-b92999bc7f56/addressee";
    assert_eq!(shop.get(nobody, service).await.0, 404);
    // The services' token is no token of the api.
    assert_eq!(shop.get("/api/orders", service).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_with_tokens_and_without_that_of_its_services_tells_nobody_a_contact() {
    let issuer = crate::support::issuer::serve_at(([127, 0, 0, 1], 0).into()).await;
    let mut stack = Stack::embedded().await;
    for (key, value) in crate::support::issuer::settings(issuer) {
        stack.set(key, &value);
    }
    let api = stack.start(&["api"]).await;
    let url =
        format!("http://{}/internal/orders/01a20191-dc04-70a7-b9de-b92999bc7f56/addressee", api.address);
    assert_eq!(reqwest::get(url).await.unwrap().status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_sent_leave_no_address_behind_and_each_is_an_event() {
    let server = SmtpServer::start(SmtpSecurity::Plain, None);
    let mut stack = Stack::embedded().await;
    send_by(&mut stack, &server);
    stack.set(SERVICE_TOKEN, "service-token-of-a-test");
    let all = stack.start_all().await;
    load::stock(&stack).await;
    let client = clients(&all).remove(0);
    let mut body = order("mug", 1, "card_approved", "AT");
    body["contact"] = json!({ "email": "marker@example.org" });
    let placed = client.place(&body).await;
    client.becomes(&placed, "FULFILLED").await;
    books::settle(&stack).await;
    let sent = "SELECT count(*) FROM notifications WHERE status = 'SENT'";
    let numbered = "SELECT published FROM notif_sent";
    let pool = stack.pool("notification");
    eventually("both messages are sent and published", LONG, || async {
        let count =
            async |sql: &'static str| sqlx::query_scalar::<_, i64>(sql).fetch_one(pool).await.unwrap();
        ((count(sent).await, count(numbered).await) == (2, 2)).then_some(())
    })
    .await;
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT n::text FROM notifications AS n").fetch_all(pool).await.unwrap();
    assert!(rows.iter().all(|row| !row.contains("marker")), "{rows:?}");
    assert!(rows.iter().any(|row| row.contains("m***@e***.org")), "{rows:?}");
}
