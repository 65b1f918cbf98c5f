//! By what the chart scales: the queries of its KEDA triggers are put to databases with commands in every state.

use std::{collections::BTreeMap, fs};

use amends_api::services;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};

use super::support::{documents, path};

const SNAPSHOTS: &str = "charts/snapshots";

/// Commands of a worker, as rows: `live` is an external action that remains to be done, `lease_until` when the row is due.
/// What is marked is runnable work.
const COMMANDS: &str = "
    INSERT INTO commands (command_id, saga_id, status, attempt, epoch, issued_at, unsure, live, owner, lease_until)
    SELECT gen_random_uuid(), gen_random_uuid(), status, 1, 0, now(), unsure, live, owner, now() + due
    FROM (VALUES
        ('accepted',         false, true,  NULL,              interval '-1 second'),   -- runnable
        ('accepted',         false, true,  NULL,              interval '-1 hour'),     -- runnable
        ('failed_transient', false, true,  NULL,              interval '-1 minute'),   -- runnable: its pause is over
        ('failed_transient', false, true,  NULL,              interval '1 minute'),    -- it pauses, or a breaker holds it
        ('started',          false, true,  gen_random_uuid(), interval '1 minute'),    -- it is being called
        ('started',          false, true,  gen_random_uuid(), interval '-1 minute'),   -- runnable: who called is gone
        ('started',          true,  true,  NULL,              interval '-1 minute'),   -- runnable: to be asked after
        ('undoing',          true,  true,  NULL,              interval '1 minute'),    -- it pauses
        ('succeeded',        false, false, NULL,              NULL),
        ('undone',           false, false, NULL,              NULL)
    ) AS row (status, unsure, live, owner, due)";
const RUNNABLE: i64 = 5;

/// Returns every object of this kind that the chart renders, with the snapshot's name.
fn of_kind(kind: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path(SNAPSHOTS)).unwrap() {
        let name = format!("{SNAPSHOTS}/{}", entry.unwrap().file_name().to_str().unwrap());
        let objects = documents(&name).into_iter().filter(|object| object["kind"] == kind);
        found.extend(objects.map(|object| (name.clone(), object)));
    }
    found
}

/// Returns the queries of the triggers that ask a worker's database, by the worker.
fn queries() -> BTreeMap<String, Vec<String>> {
    let mut queries: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (_, object) in of_kind("ScaledObject") {
        let worker = object["metadata"]["name"].as_str().unwrap().trim_start_matches("amends-").to_owned();
        for trigger in object["spec"]["triggers"].as_array().unwrap() {
            if trigger["type"] == "postgresql" {
                let query = trigger["metadata"]["query"].as_str().unwrap().to_owned();
                queries.entry(worker.clone()).or_default().push(query);
            }
        }
    }
    queries
}

#[test]
fn nothing_scales_by_what_is_not_tested_here() {
    let (objects, autoscalers) = (of_kind("ScaledObject"), of_kind("HorizontalPodAutoscaler"));
    assert!(objects.len() >= 4 && !autoscalers.is_empty(), "{} {}", objects.len(), autoscalers.len());
    for (name, object) in objects {
        let kinds: Vec<_> =
            object["spec"]["triggers"].as_array().unwrap().iter().map(|t| &t["type"]).collect();
        assert_eq!(kinds, ["cpu", "postgresql"], "{name}: a metric's name would need a look at the catalog");
    }
    for (name, object) in autoscalers {
        for metric in object["spec"]["metrics"].as_array().unwrap() {
            let resource = &metric["resource"]["name"];
            assert!(metric["type"] == "Resource" && resource == "cpu", "{name}: {metric}");
        }
    }
}

#[tokio::test]
async fn a_worker_scales_by_the_calls_that_are_due_and_that_nobody_makes() {
    let queries = queries();
    assert_eq!(queries.keys().collect::<Vec<_>>(), ["payment", "shipment"]);
    for (worker, queries) in queries {
        let service = services::find_worker(&worker).unwrap();
        let database = amends_testkit::database(service.migrator, service.name).await;
        // KEDA logs in as the worker.
        let role = PgPool::connect(&database.role_url(&format!("amends_{worker}"))).await.unwrap();
        for query in queries {
            let count = async || -> i64 {
                let counted = sqlx::query_scalar(AssertSqlSafe(query.clone())).fetch_one(&role).await;
                counted.unwrap_or_else(|error| panic!("{worker}: {error}: {query}"))
            };
            sqlx::raw_sql("DELETE FROM commands").execute(&database.pool).await.unwrap();
            assert_eq!(count().await, 0, "{worker}");
            sqlx::raw_sql(COMMANDS).execute(&database.pool).await.unwrap();
            assert_eq!(count().await, RUNNABLE, "{worker}: {query}");

            // It is asked every 15 s of a table with a month's commands.
            let mut transaction = role.begin().await.unwrap();
            sqlx::raw_sql("SET LOCAL enable_seqscan = off").execute(&mut *transaction).await.unwrap();
            let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!("EXPLAIN {query}")))
                .fetch_all(&mut *transaction)
                .await
                .unwrap();
            let plan = plan.join("\n");
            assert!(plan.contains("Index") && !plan.contains("Seq Scan"), "{worker}: {plan}");
        }
    }
}
