//! Personal data: where it is, and that it can be exported and erased.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use amends_api::{auth::Role, services, settings::Settings, topics};
use amends_kafka::{KafkaSettings, KafkaSink, KafkaSource};
use amends_proof::{campaign::broker::Broker as Admin, deployment::ROLES};
use amends_protocol::{
    id,
    transport::{Outbound, Placement, Sink, Source},
};
use amends_testkit::{
    eventually,
    smtp::{SmtpSecurity, SmtpServer},
};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    books,
    support::{
        LONG, Process, SERVICE_TOKEN, Stack,
        client::{Client, order},
        clients, exposition,
        issuer::token,
        load,
        shop::{Shop, read},
    },
};

/// Texts that are in no order's books: each is found wherever an address or a contact is.
const MARKS: [&str; 5] =
    ["Marker Person", "9 Hidden Lane", "Markerville", "marker@example.org", "+4366455566677"];

fn personal_order(method: &str, country: &str) -> Value {
    let mut body = order("mug", 1, method, country);
    body["shippingAddress"] = json!({ "name": MARKS[0], "line1": MARKS[1], "city": MARKS[2],
                                      "postalCode": "1010", "country": country });
    body["contact"] = json!({ "email": MARKS[3], "phone": MARKS[4] });
    body
}

/// Secrets that the deployment is given.
const SECRETS: [(&str, &str); 2] = [
    (SERVICE_TOKEN, "service-token-that-is-in-no-log"),
    ("AMENDS_WEBHOOK_KEY", "6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b6b"),
];
/// A token of a caller.
const BEARER: &str = "bearer-token-that-is-in-no-log";
/// A topic in which each role meets a message that it cannot read.
const POISONED: [(&str, &str, &str); 4] = [
    ("engine", "saga.replies", "amends_engine_dead_letters_total"),
    ("worker inventory", "inventory.commands", "amends_worker_dead_letters_total"),
    ("worker payment", "payment.commands", "amends_worker_dead_letters_total"),
    ("worker shipment", "shipment.commands", "amends_worker_dead_letters_total"),
];

/// Requests, messages and connections that fail, each with a mark in it; returns further secrets.
async fn fail_in_every_way(stack: &Stack, processes: &[Process]) -> Vec<String> {
    let api = processes.iter().find(|process| process.role == "api").unwrap().address;
    let http = reqwest::Client::new();
    let [name, line, _, email, phone] = MARKS;
    let order = format!("http://{api}/api/orders");
    let listed = Url::parse_with_params(&order, [("customerId", email), ("limit", "none")]).unwrap();
    for request in [
        http.post(&order).header("content-type", "application/json").body(format!("{{\"a\": {name}")),
        http.post(&order).json(&json!({ "customerId": email, "lines": line })),
        http.post(&order).header("content-type", "text/plain").body(phone),
        http.get(listed),
        http.get(format!("http://{api}/api/orders/{name}")),
        http.get(format!("http://{api}/{phone}")).bearer_auth(BEARER),
        http.post(format!("http://{api}/api/webhooks")).json(&json!({ "url": format!("http://{email}/") })),
        http.get(format!("http://{api}/internal/orders/{name}/addressee")).bearer_auth(BEARER),
    ] {
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_client_error(), "{}: {}", answer.url(), answer.status());
    }
    // Its receiver answers nothing.
    let webhook = json!({ "url": "http://127.0.0.1:9/hook", "types": ["order.*"] });
    let created = http.post(format!("http://{api}/api/webhooks")).json(&webhook).send().await.unwrap();
    assert_eq!(created.status(), 201);
    let created: Value = created.json().await.unwrap();
    let mut secrets = vec![created["secret"].as_str().expect("a secret").to_owned()];
    let after = http.post(&order).json(&personal_order("card_approved", "AT")).send().await.unwrap();
    assert_eq!(after.status(), 201);

    let broker = Admin::new(stack.broker.bootstrap_servers().parse().unwrap()).unwrap();
    let poison = json!({ "name": name, "address": line, "email": email, "phone": phone }).to_string();
    for (_, topic, _) in POISONED {
        broker.produce(topic, poison.as_bytes()).await.unwrap();
        broker.produce(topic, format!("{name} {email}").as_bytes()).await.unwrap();
    }
    for (role, _, metric) in POISONED {
        let process = processes.iter().find(|process| process.role == role).unwrap();
        eventually(&format!("{role} has met both"), LONG, || async {
            let (_, text) = process.client().try_get_text("/metrics").await?;
            (exposition::parse(&text).get(metric)?.sum(&[]) >= 2.0).then_some(())
        })
        .await;
    }
    for service in services::names() {
        let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE datname = current_database() AND usename LIKE 'amends%'";
        let ended: i64 = sqlx::query_scalar(ended).fetch_one(stack.pool(service)).await.unwrap();
        assert!(ended > 0, "{service}");
        let url = Url::parse(stack.role_url(service)).unwrap();
        secrets.extend(url.password().map(str::to_owned));
    }
    for process in processes {
        process.ready().await;
    }
    books::settle(stack).await;
    secrets
}

/// An order comes back, and another is partly paid back.
async fn take_back(client: &Client, returned: &str, refunded: &str) {
    let path = format!("/api/orders/{returned}/return");
    let (status, answer) = client.post(&path, &json!({ "reason": "damaged" })).await;
    assert_eq!(status, 202, "{answer}");
    let (status, answer) = client.put(&format!("{path}/approve"), &json!({})).await;
    assert_eq!(status, 202, "{answer}");
    client.becomes(returned, "RETURNED").await;
    let (path, goodwill) =
        (format!("/api/orders/{refunded}/refunds"), json!({ "amount": 5, "reason": "late" }));
    let (status, answer) = client.post_with_key(&path, "goodwill", &goodwill).await;
    assert_eq!(status, 202, "{answer}");
}

/// Sends a reply for an order's saga that its worker has not made; it is noted beside the saga, and dead-lettered.
async fn reply_falsely(stack: &Stack, order: &str) {
    let pool = stack.pool("engine");
    let (saga, slot): (Uuid, i16) =
        sqlx::query_as("SELECT id, slot FROM sagas WHERE business_key = $1 ORDER BY id LIMIT 1")
            .bind(order)
            .fetch_one(pool)
            .await
            .unwrap();
    let reply = json!({
        "schemaVersion": 1, "commandId": id::execute(saga, "pay", 0, 1), "kind": "execute", "sagaId": saga,
        "slot": slot, "workflow": "order_fulfilment", "workflowVersion": 1, "step": "pay", "part": 0,
        "generation": 1, "attempt": 1, "epoch": 0, "replyToken": "00".repeat(16), "outcome": "succeeded",
        "repliedAt": "2026-01-01T00:00:00Z", "reason": { "code": MARKS[2], "text": MARKS[0] },
    });
    let message = Outbound {
        topic: "saga.replies".to_owned(),
        placement: Placement::Slot(slot.unsigned_abs()),
        key: saga,
        traceparent: None,
        bytes: reply.to_string().into_bytes(),
    };
    let sink = KafkaSink::new(&KafkaSettings::new(stack.broker.bootstrap_servers())).unwrap();
    sink.send(vec![message]).await.unwrap();
    eventually("the reply is noted", LONG, || async {
        let noted = "SELECT count(*) FROM odd_replies WHERE saga_id = $1 AND dead_lettered";
        let noted: i64 = sqlx::query_scalar(noted).bind(saga).fetch_one(pool).await.unwrap();
        (noted > 0).then_some(())
    })
    .await;
}

fn is_marked(text: &str) -> bool {
    MARKS.iter().any(|mark| text.contains(mark))
}

/// Tables that have rows once everything has happened to orders and to messages.
const FILLED: [&str; 8] = [
    "engine.idempotent_answers",
    "engine.odd_replies",
    "engine.order_sagas",
    "engine.timeline",
    "engine.webhook_deliveries",
    "inventory.restocks",
    "notification.notifications",
    "payment.gateway_refunds",
];

/// Returns the tables of all databases, `database.table`, in which a row holds a mark, and those that have rows.
async fn marked_tables(stack: &Stack) -> (Vec<String>, Vec<String>) {
    let (mut marked, mut filled) = (Vec::new(), Vec::new());
    for name in services::names() {
        let pool = stack.pool(name);
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT relname::text FROM pg_class
             WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
             ORDER BY relname",
        )
        .fetch_all(pool)
        .await
        .unwrap();
        assert!(!tables.is_empty(), "{name}");
        for table in tables {
            let sql = format!("SELECT t::text FROM \"{table}\" AS t");
            let rows: Vec<String> =
                sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(pool).await.unwrap();
            if rows.iter().any(|row| is_marked(row)) {
                marked.push(format!("{name}.{table}"));
            }
            if !rows.is_empty() {
                filled.push(format!("{name}.{table}"));
            }
        }
    }
    (marked, filled)
}

/// Returns the topics in which a message holds a mark, and the number of all messages. `group` reads each message once.
async fn marked_topics(stack: &Stack, group: &str) -> (Vec<String>, usize) {
    let settings = Settings::read(&services::names(), None, &[]).unwrap();
    let names: Vec<String> = topics::all(&settings).into_iter().map(|topic| topic.name).collect();
    let address: SocketAddr = stack.broker.bootstrap_servers().parse().unwrap();
    let admin = Admin::new(address).unwrap();
    let mut there = 0;
    for name in &names {
        there += admin.lengths(name).await.unwrap().iter().sum::<i64>();
    }
    let kafka = KafkaSettings::new(stack.broker.bootstrap_servers());
    let subscribed: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut source = KafkaSource::subscribe(&kafka, group, &subscribed).unwrap();
    let (mut marked, mut met) = (Vec::new(), 0);
    let begun = Instant::now();
    while met < usize::try_from(there).unwrap() {
        assert!(begun.elapsed() < LONG, "{met} of {there} messages");
        let batch = source.receive(1_000, Duration::from_secs(5)).await.unwrap();
        met += batch.messages.len();
        let found = batch.messages.iter().filter(|m| is_marked(&String::from_utf8_lossy(&m.bytes)));
        marked.extend(found.map(|message| message.topic.clone()));
    }
    marked.sort();
    marked.dedup();
    (marked, met)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_addresses_mails_and_phones_are_in_their_table_and_in_ship_commands_and_no_secret_is_in_a_log()
{
    let mut stack = Stack::embedded().await;
    stack.set("AMENDS_LOG", "trace");
    for (setting, secret) in SECRETS {
        stack.set(setting, secret);
    }
    let mail = SmtpServer::start(SmtpSecurity::Plain, None);
    stack.set("AMENDS_SMTP_URL", &mail.url()).set("AMENDS_MAIL_FROM", "Shop <orders@shop.example>");
    let logs = tempfile::NamedTempFile::new().unwrap();
    let mut processes = Vec::new();
    for role in ROLES.iter() {
        processes.push(stack.start_with_log(role, logs.as_file()).await);
    }
    load::stock(&stack).await;
    let clients = clients(&processes);
    let mut orders = Vec::new();
    for (method, country) in [
        ("card_approved", "AT"),
        ("card_declined", "AT"),
        ("card_approved", "AQ"),
        ("card_error_twice", "AT"),
    ] {
        orders.push(clients[0].place(&personal_order(method, country)).await);
    }
    // Refused: a mark where none belongs, and one too many.
    let mut bad = personal_order("card_approved", "AT");
    bad["customerName"] = json!(MARKS[0]);
    assert_eq!(clients[0].post("/api/orders", &bad).await.0, 400);
    let mut bad = personal_order("card_approved", "AT");
    bad["contact"]["phone"] = json!(format!("{} {}", MARKS[4], MARKS[3]));
    let (status, problem) = clients[0].post("/api/orders", &bad).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (400, &json!("/contact/phone")), "{problem}");
    assert!(!is_marked(&problem.to_string()), "{problem}");
    for order in &orders {
        for path in ["", "/timeline", "/explanation"] {
            let (status, body) = clients[0].try_get(&format!("/api/orders/{order}{path}")).await.unwrap();
            assert!(status == 200 && !is_marked(&body.to_string()), "{path}: {body}");
        }
    }
    books::settle(&stack).await;
    take_back(&clients[0], &orders[0], &orders[3]).await;
    books::settle(&stack).await;
    // Each order was created, and ended; one was asked to come back, paid back, and came back, and one was paid back.
    let sent = "SELECT count(*) FROM notifications WHERE status = 'SENT'";
    eventually("every message is sent", LONG, || async {
        let sent: i64 = sqlx::query_scalar(sent).fetch_one(stack.pool("notification")).await.unwrap();
        (sent == 12).then_some(())
    })
    .await;
    assert!(mail.messages().iter().all(|mail| mail["to"] == json!([MARKS[3]])));

    assert_eq!(marked_tables(&stack).await.0, ["engine.personal"]);
    let (topics, messages) = marked_topics(&stack, "reads-everything").await;
    assert!(messages > 20, "{messages}");
    assert_eq!(topics, ["shipment.commands"]);
    let further = fail_in_every_way(&stack, &processes).await;
    reply_falsely(&stack, &orders[0]).await;
    // What could not be read stands where it was sent, and as a dead letter. No table has it, nor what was sent to webhooks.
    let (tables, filled) = marked_tables(&stack).await;
    assert_eq!(tables, ["engine.personal"]);
    let empty: Vec<_> = FILLED.iter().filter(|table| !filled.iter().any(|filled| filled == *table)).collect();
    assert!(empty.is_empty(), "{empty:?} have no rows: {filled:?}");
    let expected = POISONED.iter().flat_map(|(_, topic, _)| [(*topic).to_owned(), format!("{topic}.DLT")]);
    let expected: BTreeSet<String> = expected.collect();
    let (topics, _) = marked_topics(&stack, "reads-everything-again").await;
    assert_eq!(BTreeSet::from_iter(topics), expected);
    drop(processes);
    let log = fs::read_to_string(logs.path()).unwrap();
    assert!(log.contains("TRACE"), "everything is logged: {} bytes", log.len());
    let secrets = SECRETS.iter().map(|(_, secret)| *secret).chain([BEARER]);
    let secrets: Vec<&str> = secrets.chain(further.iter().map(String::as_str)).collect();
    assert!(secrets.len() > 3 && secrets.iter().all(|secret| secret.len() > 7), "{}", secrets.len());
    let is_told = |line: &&str| is_marked(line) || secrets.iter().any(|secret| line.contains(secret));
    if let Some(line) = log.lines().find(is_told) {
        panic!("{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_exports_and_erases_a_customers_data_once_no_order_is_under_way() {
    let shop = Shop::open().await;
    let admin = token("ada", &[Role::Admin]);
    let path = |customer: &str| format!("/api/customers/{customer}/personal-data");
    let order = shop.place_for("c-a").await;
    let (status, export) = shop.get(&path("c-a"), &admin).await;
    assert_eq!(status, 200, "{export}");
    assert_eq!(export["items"][0]["orderId"], json!(order));
    assert_eq!(export["items"][0]["shippingAddress"]["line1"], "1 Long Street", "{export}");
    assert_eq!((&export["items"][0]["contact"], &export["next"]), (&Value::Null, &Value::Null));
    let (_, placed) = shop.get(&format!("/api/orders/{order}"), &admin).await;
    assert_eq!(export["items"][0]["createdAt"], placed["createdAt"], "one instant has one spelling");

    let erase = async |customer: &str| {
        read(shop.ask(Method::DELETE, &path(customer), Some(&admin)).send().await.unwrap()).await
    };
    let (status, refused) = erase("c-a").await;
    assert_eq!((status, &refused["type"]), (409, &json!("/problems/orders-under-way")), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains(&order), "{refused}");

    let (customer, timeline) = (token("c-a", &[Role::Customer]), format!("/api/orders/{order}/timeline"));
    let cancelled = shop.ask(Method::POST, &format!("/api/orders/{order}/cancel"), Some(&customer));
    let cancelled = cancelled.json(&json!({ "reason": "my son Max has it already" })).send().await.unwrap();
    assert_eq!(cancelled.status(), 202);
    assert!(shop.get(&timeline, &admin).await.1.to_string().contains("my son Max"), "operators read it");
    let _engine = shop.stack.start(&["engine"]).await;
    let _inventory = shop.stack.start(&["worker", "inventory"]).await;
    let erased = eventually("the order has ended, and its data is erased", LONG, || async {
        let (status, erased) = erase("c-a").await;
        (status == 200).then_some(erased)
    })
    .await;
    assert_eq!(erased["erasedOrders"], 1, "{erased}");
    let (_, export) = shop.get(&path("c-a"), &admin).await;
    assert_eq!(export["items"][0]["shippingAddress"], Value::Null, "{export}");
    let (status, told) = shop.get(&timeline, &admin).await;
    let by =
        told["items"].as_array().unwrap().iter().find(|item| item["type"] == "cancel_requested").unwrap();
    assert_eq!((status, &by["detail"]["by"]), (200, &json!({ "who": "c-a" })), "the customer's words go too");
    let (_, kept) = shop.get(&format!("/api/orders/{order}"), &admin).await;
    assert_eq!((&kept["total"], &kept["status"]), (&json!(1250), &json!("CANCELLED")), "the books stay");
    let (status, nobody) = erase("nobody").await;
    assert_eq!((status, &nobody["erasedOrders"]), (200, &json!(0)));
    let by: String = sqlx::query_scalar("SELECT erased_by FROM personal_data_erasures WHERE orders = 1")
        .fetch_one(shop.stack.pool("engine"))
        .await
        .unwrap();
    assert_eq!(by, "ada");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_customer_or_no_page_is_refused() {
    let shop = Shop::open().await;
    let admin = token("ada", &[Role::Admin]);
    for (path, parameter) in [
        ("/api/customers/%20/personal-data", "customerId"),
        ("/api/customers/c-a/personal-data?limit=0", "limit"),
        ("/api/customers/c-a/personal-data?limit=201", "limit"),
        ("/api/customers/c-a/personal-data?cursor=00", "cursor"),
        ("/api/customers/c-a/personal-data?page=2", "query"),
    ] {
        let (status, problem) = shop.get(path, &admin).await;
        assert_eq!(
            (status, &problem["errors"][0]["parameter"]),
            (400, &json!(parameter)),
            "{path}: {problem}"
        );
    }
}
