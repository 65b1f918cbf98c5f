//! Personal data: where it is, and that it can be exported and erased.

use std::{fs, net::SocketAddr, time::Duration};

use amends_api::{auth::Role, services, settings::Settings, topics};
use amends_kafka::{KafkaSettings, KafkaSource};
use amends_proof::{campaign::broker::Broker as Admin, deployment::ROLES};
use amends_protocol::transport::Source;
use amends_testkit::{
    eventually,
    smtp::{SmtpSecurity, SmtpServer},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    books,
    support::{
        LONG, Stack,
        client::order,
        clients,
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

fn is_marked(text: &str) -> bool {
    MARKS.iter().any(|mark| text.contains(mark))
}

/// Returns the tables of all databases, `database.table`, in which a row holds a mark.
async fn marked_tables(stack: &Stack) -> Vec<String> {
    let mut marked = Vec::new();
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
        }
    }
    marked
}

/// Returns the topics in which a message holds a mark, and the number of all messages.
async fn marked_topics(stack: &Stack) -> (Vec<String>, usize) {
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
    let mut source = KafkaSource::subscribe(&kafka, "reads-everything", &subscribed).unwrap();
    let (mut marked, mut met) = (Vec::new(), 0);
    while met < usize::try_from(there).unwrap() {
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
async fn names_addresses_mails_and_phones_are_in_their_table_and_in_ship_commands_and_nowhere_else() {
    let mut stack = Stack::embedded().await;
    stack.set("AMENDS_LOG", "trace");
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
    // Each order was created, and ended.
    let sent = "SELECT count(*) FROM notifications WHERE status = 'SENT'";
    eventually("every message is sent", LONG, || async {
        let sent: i64 = sqlx::query_scalar(sent).fetch_one(stack.pool("notification")).await.unwrap();
        (sent == 8).then_some(())
    })
    .await;
    assert!(mail.messages().iter().all(|mail| mail["to"] == json!([MARKS[3]])));

    assert_eq!(marked_tables(&stack).await, ["engine.personal"]);
    let (topics, messages) = marked_topics(&stack).await;
    assert!(messages > 20, "{messages}");
    assert_eq!(topics, ["shipment.commands"]);
    drop(processes);
    let log = fs::read_to_string(logs.path()).unwrap();
    assert!(log.contains("TRACE"), "everything is logged: {} bytes", log.len());
    if let Some(line) = log.lines().find(|line| is_marked(line)) {
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

    let erase = async |customer: &str| {
        read(shop.ask(Method::DELETE, &path(customer), Some(&admin)).send().await.unwrap()).await
    };
    let (status, refused) = erase("c-a").await;
    assert_eq!((status, &refused["type"]), (409, &json!("/problems/orders-under-way")), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains(&order), "{refused}");

    let cancelled = shop.ask(Method::DELETE, &format!("/api/orders/{order}"), Some(&admin));
    assert_eq!(cancelled.send().await.unwrap().status(), 202);
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
