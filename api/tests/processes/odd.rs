//! Replies that the engine ignores or dead-letters are shown beside their saga.

use amends_kafka::{KafkaSettings, KafkaSink};
use amends_protocol::{
    TokenKey, id,
    transport::{Outbound, Placement, Sink},
};
use amends_testkit::eventually;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{LONG, Stack, client::order};

/// Returns the number of odd replies by reason, and whether they are dead letters.
fn shown(saga: &Value) -> Vec<(String, u64, bool)> {
    let rows = saga["oddReplies"].as_array().unwrap().iter();
    let row = |row: &Value| {
        let reason = row["reason"].as_str().unwrap().to_owned();
        (reason, row["count"].as_u64().unwrap(), row["deadLettered"].as_bool().unwrap())
    };
    let mut shown: Vec<_> = rows.map(row).collect();
    shown.sort();
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_the_last_answer_of_a_saga_and_the_replies_that_changed_nothing() {
    let stack = Stack::embedded().await;
    let all = stack.start_all().await;
    stack.stock("mug", 100).await;
    let (client, engine) = (all[5].client(), stack.pool("engine"));
    let placed = client.place(&order("mug", 1, "card_approved", "AT")).await;
    client.becomes(&placed, "FULFILLED").await;
    let (saga, slot): (Uuid, i16) = eventually("it has ended", LONG, || async {
        sqlx::query_as("SELECT id, slot FROM sagas WHERE business_key = $1 AND outcome = 'completed'")
            .bind(&placed)
            .fetch_optional(engine)
            .await
            .unwrap()
    })
    .await;
    let path = format!("/admin/sagas/{saga}");
    let before = client.get(&path).await;
    // An engine that has just started may have probed twice.
    let duplicates: u64 = shown(&before).into_iter().map(|(_, count, _)| count).sum();
    assert!(before["oddReplies"].as_array().unwrap().iter().all(|row| row["reason"] == "duplicate"));
    let last = &before["lastAnswer"];
    assert_eq!(
        (&last["step"], &last["kind"], &last["outcome"]),
        (&json!("take"), &json!("execute"), &json!("succeeded"))
    );
    assert_eq!(last["commandId"], json!(id::execute(saga, "take", 0, 1)));
    let taken =
        before["timeline"].as_array().unwrap().iter().rev().find(|entry| entry["step"] == "take").unwrap();
    assert_eq!((&last["receivedAt"], &last["attempt"]), (&taken["at"], &json!(1)));

    let key: String = sqlx::query_scalar("SELECT reply_key FROM deployment").fetch_one(engine).await.unwrap();
    let key = TokenKey::from_hex(&key).unwrap();
    let reply = |command: Uuid, change: &dyn Fn(&mut Value)| {
        let mut reply = json!({
            "schemaVersion": 1, "commandId": command, "kind": "execute", "sagaId": saga, "slot": slot,
            "workflow": "order_fulfilment", "workflowVersion": 1, "step": "pay", "part": 0, "generation": 1,
            "attempt": 1, "epoch": 0, "replyToken": key.token(command), "outcome": "succeeded",
            "repliedAt": "2026-01-01T00:00:00Z",
        });
        change(&mut reply);
        Outbound {
            topic: "saga.replies".to_owned(),
            placement: Placement::Slot(slot.unsigned_abs()),
            key: saga,
            traceparent: None,
            bytes: reply.to_string().into_bytes(),
        }
    };
    let pay = id::execute(saga, "pay", 0, 1);
    let replies = vec![
        reply(pay, &|_| {}),
        reply(pay, &|_| {}),
        reply(pay, &|reply| reply["replyToken"] = json!("00".repeat(16))),
        reply(pay, &|reply| reply["step"] = json!("ship")),
        reply(pay, &|reply| reply["epoch"] = json!(u32::MAX)),
        reply(pay, &|reply| reply["attempt"] = json!(0)),
        reply(Uuid::now_v7(), &|reply| reply["outcome"] = json!("refused")),
    ];
    let sink = KafkaSink::new(&KafkaSettings::new(stack.broker.bootstrap_servers())).unwrap();
    sink.send(replies).await.unwrap();

    let once = |reason: &str, dead_lettered| (reason.to_owned(), 1, dead_lettered);
    let expected = [
        once("forged", true),
        once("newer_epoch", true),
        once("not_ordered", false),
        once("unreadable", true),
        once("wrong_echo", true),
    ];
    let after = eventually("all are shown", LONG, || async {
        let after = client.get(&path).await;
        match &shown(&after)[..] {
            [(reason, count, false), others @ ..] => {
                (reason == "duplicate" && *count >= duplicates + 2 && *others == expected).then_some(after)
            }
            _ => None,
        }
    })
    .await;
    let rows = after["oddReplies"].as_array().unwrap();
    let wrong = rows.iter().find(|row| row["reason"] == "wrong_echo").unwrap();
    assert_eq!((&wrong["last"]["commandId"], &wrong["last"]["step"]), (&json!(pay), &json!("ship")));
    assert_eq!((&wrong["last"]["topic"], &wrong["firstAt"]), (&json!("saga.replies"), &wrong["lastAt"]));
    let unreadable = rows.iter().find(|row| row["reason"] == "unreadable").unwrap();
    assert_eq!((&unreadable["last"]["commandId"], &unreadable["last"]["step"]), (&Value::Null, &Value::Null));
    for same in ["revision", "state", "timeline", "lastAnswer", "holds"] {
        assert_eq!(before[same], after[same], "{same}");
    }
    // They are counted after they are written down.
    eventually("all are counted", LONG, || async {
        let mut counted = Vec::new();
        for process in &all {
            let (_, text) = process.client().try_get_text("/metrics").await?;
            let is_odd =
                |line: &&str| line.starts_with("amends_engine_odd_replies_total") && !line.ends_with(" 0");
            counted.extend(text.lines().filter(is_odd).map(str::to_owned));
        }
        println!("{counted:?}");
        let is_forged = counted.contains(&"amends_engine_odd_replies_total{reason=\"forged\"} 1".to_owned());
        (is_forged && counted.len() == expected.len() + 1).then_some(())
    })
    .await;
}
