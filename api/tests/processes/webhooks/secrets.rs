//! The secrets of webhooks: in no log, and sealed again when the key changes.

use amends_testkit::eventually;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::{Hook, place, receiver::Receiver};
use crate::support::{LONG, Stack};

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_and_no_key_is_ever_logged() {
    let mut stack = Stack::embedded().await;
    stack.set("AMENDS_LOG", "trace");
    let logs = [NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap()];
    let api = stack.start_with_log(&["api"], logs[0].as_file()).await;
    let engine = stack.start_with_log(&["engine"], logs[1].as_file()).await;
    let client = api.client();
    let receiver = Receiver::start().await;
    let hook = Hook::of_all(&client, &receiver).await;
    let rotated = hook.post("/rotate-secret", &Value::Null).await;
    place(&client).await;
    receiver.gets("the order's event", |received| !received.is_empty()).await;
    api.stop().await;
    engine.stop().await;
    for log in logs {
        let said = String::from_utf8_lossy(&std::fs::read(log.path()).unwrap()).into_owned();
        assert!(said.len() > 1_000, "{said}");
        for secret in [&hook.secret, rotated["secret"].as_str().unwrap(), &"5a".repeat(32)] {
            assert!(!said.contains(secret.trim_start_matches("whsec_")), "a secret is logged");
        }
    }
}

/// Returns the ids of the keys that have sealed the secrets of the one webhook.
async fn key_ids(stack: &Stack) -> [String; 2] {
    let sealed: (String, String) = sqlx::query_as("SELECT secret, previous_secret FROM webhooks")
        .fetch_one(stack.pool("engine"))
        .await
        .unwrap();
    [sealed.0, sealed.1].map(|sealed| sealed.split('.').nth(1).unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_seals_the_secrets_again_and_then_the_older_one_is_needed_no_more() {
    let mut stack = Stack::embedded().await;
    let api = stack.start(&["api"]).await;
    let receiver = Receiver::start().await;
    let hook = Hook::of_all(&api.client(), &receiver).await;
    hook.post("/rotate-secret", &Value::Null).await;
    let [first, of_previous] = key_ids(&stack).await;
    assert_eq!(first, of_previous);
    let (old, new) = ("5a".repeat(32), "6b".repeat(32));
    stack.set("AMENDS_WEBHOOK_KEY", &new);
    // Nothing is lost while an engine has another key.
    let other = stack.start(&["engine"]).await;
    hook.post("/test", &Value::Null).await;
    eventually("the engine has tried", LONG, || async {
        let tried: bool = sqlx::query_scalar("SELECT leased_by IS NOT NULL FROM webhooks")
            .fetch_one(stack.pool("engine"))
            .await
            .unwrap();
        tried.then_some(())
    })
    .await;
    other.stop().await;
    assert_eq!(receiver.received().len(), 0);
    stack.set("AMENDS_WEBHOOK_KEY", &format!("{new},{old}"));
    let both = stack.start(&["engine"]).await;
    let [second, of_previous] = key_ids(&stack).await;
    assert!(second != first && second == of_previous, "{second}");
    let received = receiver.gets("the test event", |received| !received.is_empty()).await;
    assert!(received[0].is_by(&hook.secret));
    both.stop().await;
    stack.set("AMENDS_WEBHOOK_KEY", &new);
    let _only = stack.start(&["engine"]).await;
    hook.post("/test", &json!({})).await;
    eventually("a second test event", LONG, || async {
        receiver.received().get(1).is_some_and(|message| message.is_by(&hook.secret)).then_some(())
    })
    .await;
}
