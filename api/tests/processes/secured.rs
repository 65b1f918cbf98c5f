//! A deployment whose links are all encrypted, over servers that take no plain connection.

use std::{
    fs,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use amends_api::{services, settings::Settings, topics};
use amends_kafka::{KafkaSettings, Login, Mechanism, Security, Tls, acls};
use amends_testkit::{
    TlsPostgres,
    redis::RedisServer,
    smtp::{SmtpSecurity, SmtpServer},
    tls::{Authority, Flaw, Issued},
};

use crate::{
    doctor::{examined_with, of_grade},
    support::{
        Broker, KAFKA_ADMIN, SERVICE_TOKEN, Stack,
        client::{Client, order},
        clients, free_address, load,
    },
};

/// Upper limit for what must end at once, on a busy machine: less than a role waits at its start.
const AT_ONCE: Duration = Duration::from_secs(60);

/// The user of a role, as `amends topics --acls` names it.
fn user(role: &str) -> String {
    format!("amends_{role}")
}

/// Runs a role that must not start, and returns the line that says why.
fn refused(stack: &Stack, role: &[&str], settings: &[(&str, &str)]) -> String {
    // An api starts without Redis or a broker that has not answered after two seconds, as on a busy machine; and so does a
    // notification worker without its mail server.
    let starts_without = role == ["api"] || role == ["worker", "notification"];
    let attempts = if starts_without { 5 } else { 1 };
    let output = (0..attempts).find_map(|_| stack.ends(role, settings, AT_ONCE));
    let Output { status, stderr, .. } = output.unwrap_or_else(|| panic!("{role:?} starts with {settings:?}"));
    let said = String::from_utf8(stderr).unwrap();
    assert!(!status.success(), "{role:?} starts with {settings:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("amends: setting"), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_whose_database_or_redis_is_not_the_one_that_is_meant_says_so_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let [ours, other] = ["ours", "other"].map(|name| Authority::new(directory.path(), name));
    let good = ours.issue("server", Flaw::None);
    let server = TlsPostgres::start(&directory.path().join("data"), &good, &ours).await;
    let verified = TlsPostgres::verified_by(&ours);
    let stack = Stack::on_tls_server(Broker::embedded(), &server, &verified);
    let engine = |parameters: &str| stack.role_url("engine").replace(&verified, parameters);
    let key = "AMENDS_ENGINE_DATABASE_URL";

    let plain = engine("sslmode=disable");
    let said = refused(&stack, &["engine"], &[(key, &plain)]);
    assert!(said.contains("engine_database_url") && said.contains("no encryption"), "{said}");
    let stranger = engine(&TlsPostgres::verified_by(&other));
    let said = refused(&stack, &["engine"], &[(key, &stranger)]);
    assert!(said.contains("engine_database_url") && said.contains("UnknownIssuer"), "{said}");
    let missing = engine("sslmode=verify-full&sslrootcert=/nowhere/ca.pem");
    let said = refused(&stack, &["engine"], &[(key, &missing)]);
    assert!(said.contains("engine_database_url, sslrootcert") && said.contains("/nowhere/ca.pem"), "{said}");
    let said = refused(&stack, &["engine"], &[("AMENDS_SERVICE_TOKEN_FILE", "/nowhere/token")]);
    assert!(said.contains("service_token_file") && said.contains("/nowhere/token"), "{said}");
    let said = refused(&stack, &["migrate"], &[("DATABASE_URL", &server.url("postgres", "sslmode=disable"))]);
    assert!(said.contains("database_url"), "{said}");

    let redis = RedisServer::start_with_tls(ours.issue("redis", Flaw::OtherHost));
    let authority = ours.file().to_str().unwrap();
    let settings = [("REDIS_URL", redis.url()), ("AMENDS_REDIS_CA_FILE", authority.to_owned())];
    let settings = settings.each_ref().map(|(key, value)| (*key, value.as_str()));
    let said = refused(&stack, &["api"], &settings);
    assert!(said.contains("redis_url") && said.contains("not valid for name"), "{said}");

    for (flaw, part) in [(Flaw::Expired, "expired"), (Flaw::OtherHost, "not valid for name")] {
        server.present(&ours.issue("flawed", flaw)).await;
        let said = refused(&stack, &["engine"], &[]);
        assert!(said.contains("engine_database_url") && said.contains(part), "{said}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_worker_whose_mail_server_is_not_the_one_that_is_meant_says_so_in_one_line() {
    const ROLE: [&str; 2] = ["worker", "notification"];
    let directory = tempfile::tempdir().unwrap();
    let [ours, other] = ["ours", "other"].map(|name| Authority::new(directory.path(), name));
    let stack = Stack::embedded().await;
    let authority = ours.file().to_str().unwrap();
    let mail = |server: &SmtpServer| {
        [("AMENDS_SMTP_URL", server.url()), ("AMENDS_SMTP_CA_FILE", authority.to_owned())]
            .into_iter()
            .chain([("AMENDS_MAIL_FROM", "Shop <orders@shop.example>".to_owned())])
            .collect::<Vec<_>>()
    };
    let of_mail = |findings: &[serde_json::Value], grade: &str| {
        of_grade(findings, grade).into_iter().find(|found| found.starts_with("mail server: "))
    };
    for (authority, flaw, part) in [
        (&other, Flaw::None, "UnknownIssuer"),
        (&ours, Flaw::Expired, "expired"),
        (&ours, Flaw::OtherHost, "not valid for name"),
    ] {
        for security in [SmtpSecurity::StartTls, SmtpSecurity::Tls] {
            let server = SmtpServer::presenting(security, None, &authority.issue("mail", flaw));
            let settings = mail(&server);
            let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
            let said = refused(&stack, &ROLE, &settings);
            assert!(said.contains("smtp_url") && said.contains(part), "{said}");
            let (_, findings) = examined_with(&stack, &settings);
            let wrong = of_mail(&findings, "wrong").unwrap_or_else(|| panic!("{findings:?}"));
            assert!(wrong.contains(part), "{wrong}");
        }
    }

    let server =
        SmtpServer::presenting(SmtpSecurity::Tls, Some(("shop", "s3cret")), &ours.issue("mail", Flaw::None));
    let password = directory.path().join("password");
    let with_login = mail(&server);
    let mut settings: Vec<_> = with_login.iter().map(|(key, value)| (*key, value.as_str())).collect();
    settings.push(("AMENDS_SMTP_USER", "shop"));
    settings.push(("AMENDS_SMTP_PASSWORD_FILE", password.to_str().unwrap()));
    fs::write(&password, "guess\n").unwrap();
    let said = refused(&stack, &ROLE, &settings);
    assert!(said.contains("smtp_url") && said.contains("the login is refused (535)"), "{said}");

    fs::write(&password, "s3cret\n").unwrap();
    stack.spawn_with(&ROLE, &settings, "").ready().await;
    assert!(of_mail(&examined_with(&stack, &settings).1, "good").is_some());
    assert_eq!(server.messages(), Vec::<serde_json::Value>::new(), "nothing is sent for a question");
    // One that is away is waited for by the messages, not by the worker.
    drop(server);
    stack.spawn_with(&ROLE, &settings, "").ready().await;
    assert!(of_mail(&examined_with(&stack, &settings).1, "warning").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_asks_for_certificates_lets_those_in_who_have_one_and_the_others_say_so_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let [ours, other] = ["ours", "other"].map(|name| Authority::new(directory.path(), name));
    let Some(broker) = Broker::certified(&ours.issue("broker", Flaw::None), &ours).await else { return };
    let mut stack = Stack::new(broker).await;
    stack.set("AMENDS_KAFKA_TLS", "true").set("AMENDS_KAFKA_CA_FILE", ours.file().to_str().unwrap());
    let as_client = |issued: &Issued| {
        let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        [
            ("AMENDS_KAFKA_CERTIFICATE_FILE", path(&issued.certificate)),
            ("AMENDS_KAFKA_KEY_FILE", path(&issued.key)),
        ]
    };
    let [good, stranger, old] = [
        ours.issue("amends_payment", Flaw::None),
        other.issue("stranger", Flaw::None),
        ours.issue("old", Flaw::Expired),
    ]
    .map(|issued| as_client(&issued));
    let good = good.each_ref().map(|(key, value)| (*key, value.as_str()));
    let made = stack.output(&["topics", "--apply"], &good);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    stack.spawn_with(&["worker", "payment"], &good, "").ready().await;

    let stranger = stranger.each_ref().map(|(key, value)| (*key, value.as_str()));
    let old = old.each_ref().map(|(key, value)| (*key, value.as_str()));
    for role in [&["worker", "payment"][..], &["engine"], &["api"]] {
        for settings in [&[][..], &stranger, &old] {
            let said = refused(&stack, role, settings);
            assert!(
                said.contains("kafka_brokers") && said.contains("asks its clients for a certificate"),
                "{said}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_in_the_file_of_a_url_counts_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let stack = Stack::on_own_server(Broker::embedded(), &directory.path().join("data")).await;
    let (file, old) = (directory.path().join("url"), stack.role_url("payment"));
    fs::write(&file, format!("{old}\n")).unwrap();
    let settings = [("AMENDS_PAYMENT_DATABASE_URL_FILE", file.to_str().unwrap())];
    let worker = stack.spawn_with(&["worker", "payment"], &settings, "AMENDS_PAYMENT_DATABASE_URL");
    worker.ready().await;

    let change = "ALTER ROLE amends_payment PASSWORD 'another'; \
                  SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'amends_payment'";
    sqlx::raw_sql(change).execute(stack.pool("payment")).await.unwrap();
    let client = worker.client();
    amends_testkit::eventually("the old password is refused", crate::support::LONG, || {
        let client = client.clone();
        async move { (client.try_get("/health/ready").await?.0 == 503).then_some(()) }
    })
    .await;
    let password = old.split([':', '@']).nth(2).unwrap();
    fs::write(&file, old.replace(password, "another")).unwrap();
    worker.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_an_address_of_their_own_that_needs_no_token_and_the_others_then_have_none() {
    let mut stack = Stack::embedded().await;
    stack.set(SERVICE_TOKEN, "service-token-of-a-test");
    let [engine, worker, api] = [(); 3].map(|()| free_address().unwrap());
    let without_tokens = |role: &[&str], metrics: std::net::SocketAddr| {
        let metrics = metrics.to_string();
        stack.spawn_with(
            role,
            &[("AMENDS_METRICS_LISTEN", &metrics), ("AMENDS_LISTEN", "0.0.0.0:0")],
            "AMENDS_NO_AUTH",
        )
    };
    let _engine = without_tokens(&["engine"], engine);
    let _worker = without_tokens(&["worker", "inventory"], worker);
    let api_role = stack.spawn_with(&["api"], &[("AMENDS_METRICS_LISTEN", &api.to_string())], "");
    for address in [engine, worker, api] {
        let client = Client::at(address);
        amends_testkit::eventually("it is ready", crate::support::LONG, || {
            let client = client.clone();
            async move { (client.try_get("/health/ready").await?.0 == 200).then_some(()) }
        })
        .await;
        let (status, text) = client.try_get_text("/metrics").await.unwrap();
        assert!(status == 200 && text.contains("# TYPE"), "{status} {text}");
    }
    let public = api_role.client();
    assert_eq!(public.try_get("/health/ready").await.unwrap().0, 200);
    assert_eq!(public.try_get_text("/metrics").await.unwrap().0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_over_secured_links_alone_fulfils_orders_and_each_role_reads_only_what_is_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let [ours, other] = ["ours", "other"].map(|name| Authority::new(directory.path(), name));
    let issued = ours.issue("server", Flaw::None);
    let roles: Vec<_> = services::names().into_iter().chain(["api"]).map(user).collect();
    let Some(broker) = Broker::secured(&issued, &ours, &roles).await else { return };
    let server = TlsPostgres::start(&directory.path().join("data"), &issued, &ours).await;
    let redis = RedisServer::start_with_tls(issued.clone());
    let mut stack = Stack::on_tls_server(broker, &server, &TlsPostgres::verified_by(&ours));
    let authority = ours.file().to_str().unwrap();
    stack.set("REDIS_URL", &redis.url()).set("AMENDS_REDIS_CA_FILE", authority);
    stack.set("AMENDS_KAFKA_TLS", "true").set("AMENDS_KAFKA_CA_FILE", authority);

    // As the administrator: topics, and who may do what with them. One entry is left out at first.
    let admin = [("AMENDS_KAFKA_SASL_USER", KAFKA_ADMIN), ("AMENDS_KAFKA_SASL_PASSWORD", KAFKA_ADMIN)];
    let payment = user("payment");
    let as_payment =
        [("AMENDS_KAFKA_SASL_USER", payment.as_str()), ("AMENDS_KAFKA_SASL_PASSWORD", payment.as_str())];
    amends_testkit::eventually("the topics are made", crate::support::LONG, || {
        let made = stack.output(&["topics", "--apply"], &admin);
        async move { made.status.success().then_some(()) }
    })
    .await;
    let (_, findings) = examined_with(&stack, &as_payment);
    let wrong = rights_at_the_broker(&findings, "wrong");
    assert!(wrong.contains("the user amends_payment may not") && wrong.contains(" more"), "{wrong}");
    let missing = "--add --allow-principal 'User:amends_payment' --operation Write --topic saga.replies";
    allow_all_but(&stack, authority, missing).await;
    amends_testkit::eventually("one right is missing", crate::support::LONG, || async {
        let (status, findings) = examined_with(&stack, &as_payment);
        let wrong = rights_at_the_broker(&findings, "wrong");
        let advised =
            findings.iter().any(|found| found["advice"].as_str().is_some_and(|a| a.contains(missing)));
        println!("status {status}: {wrong}");
        (status == 1 && advised && wrong.ends_with("(payment): Write topic saga.replies")).then_some(())
    })
    .await;
    let applied = amends_testkit::eventually("the lists are made", crate::support::LONG, || {
        let applied = stack.output(&["topics", "--acls", "--apply"], &admin);
        async move { applied.status.success().then_some(applied) }
    })
    .await;
    let applied = String::from_utf8(applied.stdout).unwrap();
    let own = "--add --allow-principal 'User:amends_payment' --operation Read --topic payment.commands";
    assert!(applied.lines().any(|line| line == own), "{applied}");

    // Each role's user may do what its role needs, and what it may not see is no fault.
    for role in services::names().into_iter().chain(["api"]) {
        let user = user(role);
        let login =
            [("AMENDS_KAFKA_SASL_USER", user.as_str()), ("AMENDS_KAFKA_SASL_PASSWORD", user.as_str())];
        amends_testkit::eventually("nothing is forbidden that is needed", crate::support::LONG, || async {
            let findings = examined_with(&stack, &login).1;
            let wrong = of_grade(&findings, "wrong");
            println!("{wrong:?}");
            let of_broker = ["rights", "broker", "topic", "lag"];
            let is_sound = !wrong.iter().any(|found| of_broker.iter().any(|part| found.starts_with(part)));
            let skipped = of_grade(&findings, "skipped");
            let is_said = skipped.iter().any(|found| found.starts_with("topics: how "));
            let is_right = rights_at_the_broker(&findings, "good").ends_with(&format!("({role})"));
            (is_sound && is_said && is_right).then_some(())
        })
        .await;
    }

    // What is wrong is said in one line, also by the api, which starts without a broker that is away.
    let wrong_authority = other.file().to_str().unwrap();
    for role in [&["engine"][..], &["api"]] {
        let said =
            refused(&stack, role, &[as_payment[0], as_payment[1], ("AMENDS_KAFKA_CA_FILE", wrong_authority)]);
        assert!(said.contains("kafka_brokers") && said.contains("certificate verify failed"), "{said}");
        let said = refused(&stack, role, &[as_payment[0], ("AMENDS_KAFKA_SASL_PASSWORD", "wrong")]);
        assert!(said.contains("kafka_brokers") && said.contains("uthentication"), "{said}");
    }
    let plain = KafkaSettings::new(stack.broker.bootstrap_servers());
    amends_kafka::check(&plain, Duration::from_secs(3)).await.expect_err("it takes no plain connection");

    // Each role with its own user; the passwords are in files.
    let all =
        ["worker inventory", "worker payment", "worker shipment", "worker notification", "engine", "api"];
    let mut processes = Vec::new();
    for role in all {
        let words: Vec<_> = role.split(' ').collect();
        let user = user(words[words.len() - 1]);
        let file = directory.path().join(&user);
        fs::write(&file, format!("{user}\n")).unwrap();
        let login = [
            ("AMENDS_KAFKA_SASL_USER", user.as_str()),
            ("AMENDS_KAFKA_SASL_PASSWORD_FILE", file.to_str().unwrap()),
        ];
        processes.push(stack.spawn_with(&words, &login, ""));
    }
    for process in &processes {
        process.ready().await;
    }
    load::stock(&stack).await;
    let clients = clients(&processes);
    let id = clients[0].place(&order("mug", 1, "card_approved", "AT")).await;
    clients[0].becomes(&id, "FULFILLED").await;

    // Another worker's commands are not for this one.
    let reads = |user: &str, topic: &str| can_read(&stack, authority, user, topic);
    assert!(reads(&payment, "payment.commands"));
    assert!(!reads(&payment, "inventory.commands"));
    assert!(!reads(&payment, "saga.replies"));
    assert!(!reads("nobody", "payment.commands"));

    // A broker with a wrong certificate is an outage: orders go on once it is right again.
    stack.broker.as_secured().present(&ours.issue("flawed", Flaw::OtherHost)).await;
    // No Kafka starts with a certificate that has expired: another server has it.
    let expired = TlsServer::start(&ours.issue("expired", Flaw::Expired)).await;
    let of_expired = [as_payment[0], as_payment[1], ("KAFKA_BROKERS", expired.address.as_str())];
    for role in [&["engine"][..], &["worker", "payment"], &["api"]] {
        for settings in [&as_payment[..], &of_expired] {
            let said = refused(&stack, role, settings);
            assert!(said.contains("kafka_brokers") && said.contains("certificate verify failed"), "{said}");
            assert!(said.contains("expired") && said.contains("another host"), "{said}");
        }
    }
    drop(expired);
    let waiting = clients[0].place(&order("mug", 1, "card_approved", "AT")).await;
    stack.broker.as_secured().present(&issued).await;
    clients[0].becomes(&waiting, "FULFILLED").await;

    // So is a changed password, until the file contains it.
    stack.broker.as_secured().change_password(&payment, "another").await;
    stack.broker.as_secured().present(&issued).await;
    let waiting = clients[0].place(&order("mug", 1, "card_approved", "AT")).await;
    clients[0].becomes(&waiting, "CONFIRMED").await;
    let worker = processes[1].client();
    amends_testkit::eventually("the old password is refused", crate::support::LONG, || {
        let worker = worker.clone();
        async move { (worker.try_get("/health/ready").await?.0 == 503).then_some(()) }
    })
    .await;
    fs::write(directory.path().join(&payment), "another\n").unwrap();
    clients[0].becomes(&waiting, "FULFILLED").await;
    drop(processes);
    server.stop().await;
}

/// Returns what the doctor found of the rights at the broker, if it is of this grade.
fn rights_at_the_broker(findings: &[serde_json::Value], grade: &str) -> String {
    let found = of_grade(findings, grade);
    found.into_iter().find(|found| found.starts_with("rights at the broker: ")).unwrap_or_default()
}

/// Makes every entry of access control but the one that reads like this.
async fn allow_all_but(stack: &Stack, authority: &str, left_out: &str) {
    let settings = Settings::read(&services::names(), None, &[]).unwrap();
    let mut entries = topics::acls(&settings, |role| format!("User:{}", user(role)));
    let count = entries.len();
    entries.retain(|entry| entry.to_string() != left_out);
    assert_eq!(entries.len(), count - 1, "{left_out}");
    let tls = Tls { authorities: Some(authority.into()), ..Tls::default() };
    let login = Login {
        mechanism: Mechanism::ScramSha512,
        user: KAFKA_ADMIN.to_owned(),
        password: KAFKA_ADMIN.to_owned(),
    };
    let kafka = KafkaSettings {
        properties: Security { tls: Some(tls), login: Some(login) }.properties(),
        ..KafkaSettings::new(stack.broker.bootstrap_servers())
    };
    acls::create(&kafka, &entries, crate::support::LONG).await.unwrap();
}

/// A server that speaks TLS and nothing else.
struct TlsServer {
    openssl: Child,
    address: String,
}

impl TlsServer {
    async fn start(issued: &Issued) -> Self {
        let address = free_address().unwrap();
        let openssl = Command::new("openssl")
            .args(["s_server", "-quiet", "-accept", &address.to_string(), "-cert"])
            .arg(&issued.certificate)
            .arg("-key")
            .arg(&issued.key)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl starts");
        amends_testkit::eventually("openssl listens", crate::support::LONG, || async {
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
        Self { openssl, address: address.to_string() }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.openssl.kill();
        let _ = self.openssl.wait();
    }
}

/// Returns whether a user receives a topic's messages, or at least is not refused.
fn can_read(stack: &Stack, authority: &str, user: &str, topic: &str) -> bool {
    use rdkafka::{
        ClientConfig, TopicPartitionList,
        consumer::{BaseConsumer, Consumer},
    };
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", stack.broker.bootstrap_servers())
        .set("security.protocol", "sasl_ssl")
        .set("ssl.ca.location", authority)
        .set("sasl.mechanism", "SCRAM-SHA-256")
        .set("sasl.username", user)
        .set("sasl.password", user)
        .set("group.id", "amends-payment")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    let mut partition = TopicPartitionList::new();
    for number in 0..4 {
        partition.add_partition_offset(topic, number, rdkafka::Offset::Beginning).unwrap();
    }
    consumer.assign(&partition).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < crate::support::LONG {
        match consumer.poll(Duration::from_millis(500)) {
            Some(Ok(_)) => return true,
            Some(Err(error))
                if error.to_string().contains("uthoriz") || error.to_string().contains("uthentic") =>
            {
                return false;
            }
            _ => {}
        }
    }
    false
}
