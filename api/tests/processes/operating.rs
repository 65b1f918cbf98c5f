//! What an operator sees and does over HTTP: why a saga stands still, what an action would do, and the action itself, only
//! as it was planned. The command line does the same.

use std::process::Output;

use amends_testkit::eventually;
use serde_json::{Value, json};

use crate::support::{LONG, Process, Stack, client::order};

fn api_of(all: &[Process]) -> &Process {
    all.iter().find(|process| process.role == "api").unwrap()
}

/// Places an order and returns its saga.
async fn saga_of(api: &Process, country: &str) -> String {
    let client = api.client();
    let placed = client.place(&order("mug", 1, "card_approved", country)).await;
    client.get(&format!("/api/orders/{placed}")).await["sagaId"].as_str().unwrap().to_owned()
}

/// Waits until a saga waits at this step; returns it.
async fn at_step(api: &Process, saga: &str, step: &str) -> Value {
    eventually(&format!("the saga is at {step}"), LONG, || async {
        let saga = api.client().get(&format!("/admin/sagas/{saga}")).await;
        (saga["step"] == step).then_some(saga)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_whose_worker_is_away_says_so_with_its_lag_and_what_comes_next() {
    let mut stack = Stack::embedded().await;
    stack.set("AMENDS_STUCK_AFTER", "1h");
    let (api, _engine) = (stack.start(&["api"]).await, stack.start(&["engine"]).await);
    let saga = saga_of(&api, "AT").await;
    let path = format!("/admin/sagas/{saga}/explanation");
    let told = eventually("the worker is away", LONG, || async {
        let told = api.client().get(&path).await;
        (told["kind"] == "worker_away").then_some(told)
    })
    .await;
    assert_eq!(told["participant"]["name"], "inventory");
    // The engine has asked again meanwhile.
    assert!(told["participant"]["lag"].as_u64() >= Some(1), "{told}");
    assert_eq!(told["participant"]["lastReplyAt"], Value::Null);
    assert_eq!(told["waitsFor"]["step"], "reserve");
    assert!(told["sentence"].as_str().unwrap().contains("takes nothing from its topic"), "{told}");
    assert!(told["next"]["at"].is_string(), "{told}");
    let why = |action: &str| {
        let all = told["actions"].as_array().unwrap();
        all.iter().find(|listed| listed["action"] == action).unwrap().clone()
    };
    assert_eq!(why("cancel"), json!({ "action": "cancel", "legal": true }));
    assert_eq!(
        (&why("retry")["legal"], &why("retry")["why"]),
        (&json!(false), &json!("the saga is not parked"))
    );

    // Once the worker is there, the saga ends: nobody sells that product.
    let _inventory = stack.start(&["worker", "inventory"]).await;
    let ended = eventually("the saga has ended", LONG, || async {
        let told = api.client().get(&path).await;
        (told["kind"] == "ended").then_some(told)
    })
    .await;
    for field in ["participant", "next", "waitsFor"] {
        assert_eq!(ended[field], Value::Null, "{ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_applied_once_as_it_was_shown_and_not_if_the_saga_has_moved() {
    let stack = Stack::embedded().await;
    let mut all = stack.start_all().await;
    stack.stock("mug", 100).await;
    // Its carrier never answers, and without an engine nobody asks again.
    let saga = saga_of(api_of(&all), "BV").await;
    at_step(api_of(&all), &saga, "ship").await;
    let engine = all.iter().position(|process| process.role == "engine").unwrap();
    all.remove(engine).kill();
    let api = api_of(&all);
    let (client, seen) = (api.client(), at_step(api, &saga, "ship").await);
    let cancel = |reason: &str| json!({ "action": "cancel", "saga": saga, "reason": reason });
    let (status, plan) = client.post("/admin/plans", &cancel("the customer called")).await;
    assert_eq!(status, 201, "{plan}");
    assert_eq!((&plan["saga"], &plan["needsApproval"]), (&json!(saga), &json!(false)));
    let effects = &plan["effects"];
    assert_eq!(effects["label"], json!(["PAID", "CANCELLING"]));
    assert_eq!(effects["money"], json!([{ "kind": "money_captured", "unit": "EUR", "amount": -1250 }]));
    assert_eq!(effects["stock"], json!([{ "kind": "stock_reserved", "unit": "mug", "amount": -1 }]));
    assert_eq!((&effects["commands"], &effects["reversible"]), (&json!(["ship compensate"]), &json!(false)));
    assert_eq!(at_step(api, &saga, "ship").await["label"], seen["label"], "a plan changes nothing");

    let (_, other) = client.post("/admin/plans", &cancel("another reason")).await;
    let path = |plan: &Value| format!("/admin/plans/{}", plan["plan"].as_str().unwrap());
    let (status, applied) = client.post(&path(&plan), &Value::Null).await;
    assert_eq!((status, &applied["state"]), (200, &json!("compensating")), "{applied}");
    let (status, again) = client.post(&path(&plan), &Value::Null).await;
    assert_eq!((status, &again), (200, &applied), "the first answer, once more");
    let (status, refused) = client.post(&path(&other), &Value::Null).await;
    assert_eq!((status, &refused["type"]), (412, &json!("/problems/plan-outdated")), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("cancel_requested"), "{refused}");
    let (status, refused) = client.post("/admin/plans", &cancel("twice")).await;
    assert_eq!((status, &refused["type"]), (409, &json!("/problems/not-legal-now")), "{refused}");
    assert_eq!(client.post("/admin/plans/5d", &Value::Null).await.0, 404);
    let asked: Vec<Value> = client.get(&format!("/admin/sagas/{saga}")).await["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["type"] == "cancel_requested")
        .cloned()
        .collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_names_the_fields_that_its_action_needs_or_does_not_have() {
    let stack = Stack::embedded().await;
    let api = stack.start(&["api"]).await;
    let saga = saga_of(&api, "AT").await;
    for (body, pointer) in [
        (json!({ "action": "resolve" }), "/outcome"),
        (json!({ "action": "signal" }), "/name"),
        (json!({ "action": "cancel", "reference": "TRK-1" }), "/reference"),
        (json!({ "action": "explode" }), "/action"),
    ] {
        let mut asked = json!({ "saga": saga, "reason": "why" });
        asked.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let (status, refused) = api.client().post("/admin/plans", &asked).await;
        assert_eq!((status, &refused["errors"][0]["pointer"]), (400, &json!(pointer)), "{refused}");
    }
    let stale = json!({ "action": "cancel", "saga": saga, "reason": "why", "revision": 7 });
    let (status, refused) = api.client().post("/admin/plans", &stale).await;
    assert_eq!((status, &refused["type"]), (409, &json!("/problems/stale")), "{refused}");
}

/// Returns what a command printed, and its status.
fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_explains_plans_and_applies_and_its_status_says_what_is_wrong() {
    let stack = Stack::embedded().await;
    let api = stack.start(&["api"]).await;
    let saga = saga_of(&api, "AT").await;
    let run = |arguments: &[&str]| told(&stack.output(&[&["saga"], arguments].concat(), &[]));

    let (status, listed, _) = run(&["list", "--state", "running", "--state", "parked", "--output", "json"]);
    let page: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((status, &page["items"][0]["id"]), (Some(0), &json!(saga)), "{listed}");
    let (status, table, _) = run(&["list", "--participant", "inventory"]);
    assert!(status == Some(0) && table.starts_with("ID ") && table.contains(&saga), "{table}");
    assert!(!run(&["list", "--participant", "payment"]).1.contains(&saga));
    let (status, shown, _) = run(&["show", &saga]);
    assert!(status == Some(0) && shown.contains("waitsFor") && shown.contains("started"), "{shown}");
    let (status, explained, _) = run(&["explain", &saga]);
    assert!(status == Some(0) && explained.contains("Waits for inventory's answer"), "{explained}");
    let (_, exported, _) = run(&["export", &saga]);
    let first: Value = serde_json::from_str(exported.lines().next().unwrap()).unwrap();
    assert_eq!((&first["type"], &first["revision"]), (&json!("started"), &json!(1)));

    let (status, planned, _) = run(&["plan", "cancel", &saga, "--reason", "why", "--output", "json"]);
    assert_eq!(status, Some(0), "{planned}");
    let plan: Value = serde_json::from_str(&planned).unwrap();
    let (status, applied, _) = run(&["apply", plan["plan"].as_str().unwrap()]);
    assert!(status == Some(0) && applied.contains("compensating"), "{applied}");

    for (arguments, expected) in [
        (&["show", "00000000-0000-7000-8000-000000000000"][..], 3),
        (&["apply", &"5d".repeat(32)], 3),
        (&["apply", "5d"], 2),
        (&["plan", "cancel", &saga, "--reason", "again"], 4),
        (&["plan", "signal", &saga, "--reason", "why"], 2),
        (&["list", "--state", "tired"], 2),
        (&["list", "--limit", "501"], 2),
        (&["list", "--api", "http://127.0.0.1:9"], 1),
    ] {
        let (status, out, said) = run(arguments);
        assert_eq!((status, out.as_str()), (Some(expected), ""), "{arguments:?}: {said}");
        assert!(said.lines().count() == 1 || arguments.contains(&"501"), "{arguments:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_are_found_by_order_customer_label_workflow_and_time_and_counted() {
    let stack = Stack::embedded().await;
    let api = stack.start(&["api"]).await;
    let client = api.client();
    let mut of_other = order("mug", 1, "card_approved", "AT");
    of_other["customerId"] = json!("c-2");
    let (one, other) = (saga_of(&api, "AT").await, client.place(&of_other).await);
    let second = client.get(&format!("/api/orders/{other}")).await["sagaId"].as_str().unwrap().to_owned();
    let found = async |query: &str| -> Vec<String> {
        let page = client.get(&format!("/admin/sagas?{query}")).await;
        page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    let both = vec![second.clone(), one.clone()];
    assert_eq!(found("customer=c-2").await, std::slice::from_ref(&second));
    assert_eq!(found("customer=c-2&customer=c-1001&count=true").await, both);
    assert_eq!(found(&format!("order={other}")).await, std::slice::from_ref(&second));
    assert_eq!(found(&format!("order={other}&customer=c-1001")).await, [""; 0]);
    assert_eq!(found("label=PENDING&label=PAID&workflow=order_fulfilment&participant=inventory").await, both);
    for nothing in [
        "label=PAID",
        "workflow=order_fulfilment@99",
        "participant=payment",
        "participant=nobody",
        "createdBefore=2020-01-01T00:00:00Z",
        "state=completed&state=undone",
    ] {
        assert_eq!(found(nothing).await, [""; 0], "{nothing}");
    }
    let counted = client.get("/admin/sagas?count=true&limit=1").await;
    assert_eq!((&counted["count"], counted["items"].as_array().unwrap().len()), (&json!("2"), 1));
    assert_eq!(client.get("/admin/sagas").await.get("count"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn participants_definitions_timers_and_effects_without_an_order_are_listed() {
    let stack = Stack::embedded().await;
    let api = stack.start(&["api"]).await;
    let (client, saga) = (api.client(), saga_of(&api, "AT").await);
    let found = client.get("/admin/participants").await;
    let names: Vec<&str> =
        found["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["inventory", "payment", "shipment"]);
    let inventory = &found["items"][0];
    assert_eq!((&inventory["lag"], &inventory["away"]), (&json!(1), &json!(true)), "{inventory}");
    assert_eq!(found["items"][1]["lag"], 0);

    let definitions = client.get("/admin/definitions").await;
    let of = |name: &str| {
        let all = definitions["items"].as_array().unwrap();
        all.iter().find(|item| item["workflow"] == name).unwrap().clone()
    };
    assert_eq!(
        (&of("order_fulfilment")["liveSagas"], &of("order_return")["liveSagas"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(of("order_fulfilment")["steps"][1]["name"], "pay");
    let timers = client.get("/admin/timers?limit=1").await;
    assert_eq!((&timers["items"][0]["saga"], &timers["items"][0]["step"]), (&json!(saga), &json!("reserve")));

    assert_eq!(client.get("/admin/orphans").await["items"], json!([]));
    let unknown = "01a20188-054d-7641-8256-9bd85dec78e6";
    let reply = json!({
        "step": "pay", "kind": "execute", "outcome": "succeeded", "result": { "secret": "x" },
        "exposure": [{ "kind": "money_captured", "unit": "EUR", "amount": 2500 }],
    });
    sqlx::query("INSERT INTO strays (home, saga_id, command_id, reply) VALUES (0, $1::uuid, $1::uuid, $2)")
        .bind(unknown)
        .bind(reply.to_string())
        .execute(stack.pool("engine"))
        .await
        .unwrap();
    let orphan = client.get("/admin/orphans").await["items"][0].clone();
    assert_eq!((&orphan["saga"], &orphan["step"]), (&json!(unknown), &json!("pay")));
    assert_eq!((&orphan["holds"], orphan.get("result")), (&reply["exposure"], None));
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_sagas_are_grouped_by_what_they_have_in_common_with_the_money_that_they_hold() {
    let stack = Stack::embedded().await;
    let all = stack.start_all().await;
    stack.stock("mug", 100).await;
    let api = api_of(&all);
    let client = api.client();
    assert_eq!(client.get("/admin/failures").await, json!({ "items": [], "complete": true }));
    // The carrier does not deliver there, and the refund is refused.
    let mut sagas = Vec::new();
    for _ in 0..2 {
        let placed = client.place(&order("mug", 1, "card_refund_refused", "AQ")).await;
        sagas.push(client.get(&format!("/api/orders/{placed}")).await["sagaId"].clone());
    }
    let group = eventually("both are parked", LONG, || async {
        let failures = client.get("/admin/failures").await;
        (failures["items"][0]["count"] == 2).then(|| failures["items"][0].clone())
    })
    .await;
    assert_eq!((&group["step"], &group["reason"]), (&json!("pay"), &json!("refund_refused")), "{group}");
    assert_eq!(
        group["money"],
        json!([{ "kind": "money_captured", "unit": "EUR", "amount": 2500 }]),
        "{group}"
    );
    assert_eq!(group["example"], sagas[1]);
    let told = client.get(&format!("/admin/sagas/{}/explanation", sagas[1].as_str().unwrap())).await;
    assert_eq!((&told["kind"], &told["next"]), (&json!("parked_compensation"), &Value::Null), "{told}");
}
