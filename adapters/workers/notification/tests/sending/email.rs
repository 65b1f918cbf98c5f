//! E-mail by a real mail server (aiosmtpd).

use amends_notification::{
    Channel,
    channels::email::{SmtpLogin, SmtpUrl, Unusability, check},
};
use amends_testkit::{
    eventually,
    smtp::{SmtpSecurity, SmtpServer},
    tls::{Authority, Flaw},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{HASTY, LONG, World, by_mail, by_mail_within, silent};

#[tokio::test]
async fn a_message_is_sent_in_the_clear_after_starttls_and_by_tls_with_and_without_a_login() {
    let world = World::new().await;
    let login = Some(("shop", "s3cret"));
    for (security, login) in [
        (SmtpSecurity::Plain, None),
        (SmtpSecurity::Plain, login),
        (SmtpSecurity::StartTls, None),
        (SmtpSecurity::StartTls, login),
        (SmtpSecurity::Tls, None),
        (SmtpSecurity::Tls, login),
    ] {
        let server = SmtpServer::start(security, login);
        let id = world.queue("order.fulfilled", Channel::Email).await;
        let sender = world.sender(Channel::Email, &by_mail(&server, login));
        assert_eq!(sender.run_once().await.unwrap(), 1);
        let row = world.row(id).await;
        assert_eq!(row.says(), ("SENT", None, 1), "{security:?}");
        assert_eq!(row.address.as_deref(), Some("m***@e***.org"));
        let messages = server.messages();
        assert_eq!(messages.len(), 1, "{security:?}");
        let message = &messages[0];
        assert_eq!(message["to"], json!(["marker@example.org"]));
        assert_eq!(message["tls"], json!(security != SmtpSecurity::Plain));
        assert_eq!(message["login"], json!(login.is_some()));
        let content = message["content"].as_str().unwrap();
        for part in [
            format!("Message-ID: <{id}@shop.example>"),
            "Subject: Your order is on its way".to_owned(),
            "Auto-Submitted: auto-generated".to_owned(),
            "2 x <mug>: 25.00 EUR".to_owned(),
            "2 x &lt;mug&gt;: 25.00 EUR".to_owned(),
        ] {
            assert!(content.contains(&part), "{part}: {content}");
        }
        assert_eq!(sender.run_once().await.unwrap(), 0, "once");
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_sent_nothing() {
    let (world, server) = (World::new().await, SmtpServer::start(SmtpSecurity::StartTls, None));
    let mut settings = by_mail(&server, None);
    settings.email.as_mut().unwrap().trusted = None;
    let id = world.queue("order.created", Channel::Email).await;
    world.sender(Channel::Email, &settings).run_once().await.unwrap();
    let row = world.row(id).await;
    assert_eq!(row.says(), ("QUEUED", Some("smtp_tls"), 1), "{row:?}");
    assert_eq!(server.messages(), Vec::<Value>::new());
}

#[tokio::test]
async fn a_server_with_a_wrong_certificate_is_sent_nothing_and_a_check_says_what_is_wrong_with_it() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let [ours, other] = ["ours", "other"].map(|name| Authority::new(directory.path(), name));
    for security in [SmtpSecurity::StartTls, SmtpSecurity::Tls] {
        for (authority, flaw, part) in [
            (&ours, Flaw::None, None),
            (&other, Flaw::None, Some("UnknownIssuer")),
            (&ours, Flaw::Expired, Some("expired")),
            (&ours, Flaw::OtherHost, Some("not valid for name")),
        ] {
            let server = SmtpServer::presenting(security, None, &authority.issue("mail", flaw));
            let mut settings = by_mail(&server, None);
            let email = settings.email.as_mut().unwrap();
            email.trusted = Some(std::fs::read(ours.file()).unwrap());
            let checked = check(email, LONG).await;
            let id = world.queue("order.created", Channel::Email).await;
            world.sender(Channel::Email, &settings).run_once().await.unwrap();
            let row = world.row(id).await;
            let Some(part) = part else {
                assert_eq!((checked, row.says()), (Ok(()), ("SENT", None, 1)));
                continue;
            };
            let Err(Unusability::Refused(why)) = &checked else { panic!("{part}: {checked:?}") };
            assert!(why.contains(part) && !why.contains('\n'), "{why}");
            assert_eq!(row.says(), ("QUEUED", Some("smtp_tls"), 1), "{part}");
            assert_eq!(server.messages(), Vec::<Value>::new(), "{part}");
            world.put_off().await;
        }
    }
}

#[tokio::test]
async fn a_check_sends_nothing_and_tells_a_refusal_from_a_server_that_is_away() {
    let server = SmtpServer::start(SmtpSecurity::StartTls, Some(("shop", "s3cret")));
    let mut email = by_mail(&server, Some(("shop", "s3cret"))).email.unwrap();
    assert_eq!(check(&email, LONG).await, Ok(()));
    assert_eq!(server.messages(), Vec::<Value>::new());

    email.login = Some(SmtpLogin::new("shop", "guess"));
    let refused = check(&email, LONG).await.unwrap_err();
    assert_eq!(refused, Unusability::Refused("the login is refused (535)".to_owned()));

    let plain = SmtpServer::start(SmtpSecurity::Plain, None);
    for url in [format!("{}?tls=required", plain.url()), plain.url().replace("smtp:", "smtps:")] {
        email.server = SmtpUrl::parse(&url).unwrap();
        let checked = check(&email, LONG).await;
        assert!(matches!(checked, Err(Unusability::Refused(_))), "{url}: {checked:?}");
    }
    drop(plain);
    let checked = check(&email, LONG).await;
    assert!(matches!(checked, Err(Unusability::Away(_))), "{checked:?}");
}

#[tokio::test]
async fn a_refusal_is_final_and_a_deferral_is_tried_again_until_the_server_takes_it() {
    let (world, server) = (World::new().await, SmtpServer::start(SmtpSecurity::Plain, None));
    let sender = world.sender(Channel::Email, &by_mail(&server, None));
    for command in ["rcpt", "data"] {
        server.answers(command, Some("550 5.1.1 marker@example.org is unknown"));
        let refused = world.queue("order.created", Channel::Email).await;
        sender.run_once().await.unwrap();
        let row = world.row(refused).await;
        assert_eq!(row.says(), ("FAILED", Some("smtp_550"), 1), "{command}");

        server.answers(command, Some("451 4.3.0 later"));
        let deferred = world.queue("order.created", Channel::Email).await;
        let before = world.now().await;
        sender.run_once().await.unwrap();
        let after = world.now().await;
        assert_eq!(world.row(deferred).await.says(), ("QUEUED", Some("smtp_451"), 1), "{command}");
        let due_at = world.due_at(deferred).await;
        assert!((before + 2.5..=after + 5.0).contains(&due_at), "{due_at} between {before} and {after}");
        world.put_off().await;
        assert_eq!(sender.run_once().await.unwrap(), 0, "it is not due yet");
        server.answers(command, None);
        world.make_due().await;
        sender.run_once().await.unwrap();
        assert_eq!(world.row(deferred).await.says(), ("SENT", None, 2), "{command}");
    }
}

#[tokio::test]
async fn a_login_that_is_refused_is_tried_again_because_somebody_will_mend_it() {
    let world = World::new().await;
    let server = SmtpServer::start(SmtpSecurity::StartTls, Some(("shop", "s3cret")));
    let id = world.queue("order.created", Channel::Email).await;
    let wrong = world.sender(Channel::Email, &by_mail(&server, Some(("shop", "guess"))));
    wrong.run_once().await.unwrap();
    assert_eq!(world.row(id).await.says(), ("QUEUED", Some("smtp_535"), 1));
    world.make_due().await;
    let right = world.sender(Channel::Email, &by_mail(&server, Some(("shop", "s3cret"))));
    right.run_once().await.unwrap();
    assert_eq!(world.row(id).await.says(), ("SENT", None, 2));
}

#[tokio::test]
async fn a_changed_password_counts_from_the_next_message_on() {
    let world = World::new().await;
    let server = SmtpServer::start(SmtpSecurity::StartTls, Some(("shop", "s3cret")));
    let settings = by_mail(&server, Some(("shop", "s3cret")));
    let sender = world.sender(Channel::Email, &settings);
    let first = world.queue("order.created", Channel::Email).await;
    sender.run_once().await.unwrap();
    assert_eq!(world.row(first).await.says(), ("SENT", None, 1));

    server.requires("shop", "another");
    let second = world.queue("order.created", Channel::Email).await;
    sender.run_once().await.unwrap();
    assert_eq!(world.row(second).await.says(), ("QUEUED", Some("smtp_535"), 1));
    settings.email.unwrap().login.unwrap().change_password("another");
    world.make_due().await;
    sender.run_once().await.unwrap();
    assert_eq!(world.row(second).await.says(), ("SENT", None, 2));
}

#[tokio::test]
async fn what_a_server_that_hangs_or_closes_may_have_taken_is_sent_again_with_the_same_id() {
    let (world, server) = (World::new().await, SmtpServer::start(SmtpSecurity::Plain, None));
    let sender = world.sender(Channel::Email, &by_mail(&server, None));
    let hasty = world.sender(Channel::Email, &by_mail_within(&server, None, HASTY));
    for (answer, reason, first) in [("hang", "smtp_timeout", &hasty), ("close", "smtp_unreachable", &sender)]
    {
        let id = world.queue("order.created", Channel::Email).await;
        server.answers("data", Some(answer));
        first.run_once().await.unwrap();
        assert_eq!(world.row(id).await.says(), ("QUEUED", Some(reason), 1));
        server.answers("data", None);
        world.make_due().await;
        sender.run_once().await.unwrap();
        assert_eq!(world.row(id).await.says(), ("SENT", None, 2));
        assert_eq!(copies(&server, id), 2, "{answer}");
    }
}

/// Returns how often the server has received the message with this id.
fn copies(server: &SmtpServer, id: Uuid) -> usize {
    let header = format!("Message-ID: <{id}@shop.example>");
    let messages = server.messages();
    messages.iter().filter(|message| message["content"].as_str().unwrap().contains(&header)).count()
}

#[tokio::test]
async fn a_sender_that_dies_between_sending_and_recording_leaves_a_claim_and_the_same_id_is_sent_again() {
    let (world, server) = (World::new().await, SmtpServer::start(SmtpSecurity::Plain, None));
    let settings = by_mail(&server, None);
    let id = world.queue("order.created", Channel::Email).await;
    server.answers("data", Some("hang"));
    let before = world.now().await;
    let dying = world.sender(Channel::Email, &settings);
    let dying = tokio::spawn(async move { dying.run_once().await });
    eventually("the server has the message", LONG, || async { (copies(&server, id) == 1).then_some(()) })
        .await;
    dying.abort();
    assert!(dying.await.unwrap_err().is_cancelled());

    let lapses = world.due_at(id).await;
    let after = world.now().await;
    assert!((before + 120.0..=after + 120.0).contains(&lapses), "{lapses} between {before} and {after}");
    let next = world.sender(Channel::Email, &settings);
    assert_eq!(next.run_once().await.unwrap(), 0, "it is claimed");
    assert_eq!(world.row(id).await.says(), ("QUEUED", None, 1));
    server.answers("data", None);
    world.make_due().await;
    assert_eq!(next.run_once().await.unwrap(), 1);
    assert_eq!((world.row(id).await.says(), copies(&server, id)), (("SENT", None, 2), 2));
}

#[tokio::test]
async fn two_senders_never_send_the_same_message() {
    let (world, server) = (World::new().await, SmtpServer::start(SmtpSecurity::Plain, None));
    let settings = by_mail(&server, None);
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(world.queue("order.created", Channel::Email).await);
    }
    let drain = |sender: amends_notification::Sender| async move {
        let mut sent = 0;
        while let some @ 1.. = sender.run_once().await.unwrap() {
            assert!(some <= 16, "a bounded batch");
            sent += some;
        }
        sent
    };
    let (one, other) = (world.sender(Channel::Email, &settings), world.sender(Channel::Email, &settings));
    let (one, other) = tokio::join!(drain(one), drain(other));
    assert_eq!((one + other, server.messages().len()), (40, 40));
    assert!(ids.iter().all(|id| copies(&server, *id) == 1));
}

#[tokio::test]
async fn after_a_day_of_deferrals_a_message_has_failed() {
    let (world, server) = (World::new().await, SmtpServer::start(SmtpSecurity::Plain, None));
    server.answers("rcpt", Some("451 later"));
    let sender = world.sender(Channel::Email, &by_mail(&server, None));
    let id = world.queue("order.created", Channel::Email).await;
    let old = "UPDATE notifications SET created_at = created_at - interval '24 hours'";
    sqlx::query(old).execute(&world.database.pool).await.unwrap();
    sender.run_once().await.unwrap();
    assert_eq!(world.row(id).await.says(), ("FAILED", Some("smtp_451"), 1));
}

#[tokio::test]
async fn who_was_erased_or_has_no_address_is_not_written_to_and_the_api_may_be_away() {
    let (world, server) = (World::new().await, SmtpServer::start(SmtpSecurity::Plain, None));
    let sender = world.sender(Channel::Email, &by_mail(&server, None));
    let usual = world.known.lock().unwrap().clone();
    let with = |change: Value| {
        let mut known = usual.clone();
        known.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        known
    };
    for (known, status, reason) in [
        (with(json!({ "isErased": true })), "SKIPPED", "erased"),
        (with(json!({ "contact": null })), "SKIPPED", "no_contact"),
        (with(json!({ "contact": { "phone": "+4366455566677" } })), "SKIPPED", "no_contact"),
        (Value::Null, "SKIPPED", "no_order"),
        (json!(503), "QUEUED", "api_away"),
        (json!(401), "QUEUED", "api_away"),
        (json!(404), "QUEUED", "api_away"),
        (with(json!({ "order": {} })), "FAILED", "template"),
        (with(json!({ "contact": { "email": "a@b.org\r\nBcc: c@d.org" } })), "FAILED", "invalid_address"),
    ] {
        *world.known.lock().unwrap() = known.clone();
        let id = world.queue("order.created", Channel::Email).await;
        sender.run_once().await.unwrap();
        assert_eq!(world.row(id).await.says(), (status, Some(reason), 1), "{known}");
    }
    assert_eq!(server.messages(), Vec::<Value>::new());
}

#[tokio::test]
async fn without_a_server_nothing_is_sent_and_only_dev_keeps_what_would_be() {
    let world = World::new().await;
    let id = world.queue("order.created", Channel::Email).await;
    world.sender(Channel::Email, &silent()).run_once().await.unwrap();
    let row = world.row(id).await;
    assert_eq!((row.says(), row.preview.as_deref()), (("SKIPPED", Some("not_configured"), 1), None));

    let mut dev = silent();
    dev.keeps_previews = true;
    let id = world.queue("order.created", Channel::Email).await;
    world.sender(Channel::Email, &dev).run_once().await.unwrap();
    let row = world.row(id).await;
    assert_eq!(row.says(), ("SKIPPED", Some("not_configured"), 1));
    let preview: Value = serde_json::from_str(&row.preview.unwrap()).unwrap();
    assert_eq!(preview["subject"], "We have received your order");
    assert!(!preview.to_string().contains("marker"), "{preview}");
}

#[tokio::test]
async fn a_message_is_in_the_orders_language_in_english_without_templates_and_else_in_that_of_the_settings() {
    let (world, server) = (World::new().await, SmtpServer::start(SmtpSecurity::Plain, None));
    let mut settings = by_mail(&server, None);
    settings.locale = "de".to_owned();
    let sender = world.sender(Channel::Email, &settings);
    let (german, english) =
        ("Subject: Wir haben Ihre Bestellung erhalten", "Subject: We have received your order");
    for (locale, subject) in [
        (json!("en"), english),
        (json!("en-GB"), english),
        (json!("fr"), english),
        (json!("de-AT"), german),
        (json!("DE"), german),
        (Value::Null, german),
    ] {
        world.known.lock().unwrap()["locale"] = locale.clone();
        let id = world.queue("order.created", Channel::Email).await;
        sender.run_once().await.unwrap();
        assert_eq!(world.row(id).await.says(), ("SENT", None, 1));
        let messages = server.messages();
        let content = messages.last().unwrap()["content"].as_str().unwrap();
        assert!(content.contains(subject), "{locale}: {content}");
    }
}
