//! The roles over a real Citus, where `AMENDS_TEST_CITUS` names a coordinator: a node that is away stops no order of another
//! node's homes, and a shard that moves loses none. Afterwards the books balance.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use amends_postgres::citus::Node;
use amends_proof::deployment::citus::Citus;
use amends_testkit::eventually;
use futures::future::join;
use sqlx::PgPool;

use crate::{
    books,
    doctor::{examined, examined_with, of_grade},
    support::{
        AWAY, Broker, CITUS_TURN, LONG, Stack,
        client::{Client, order},
        clients,
        load::{self, every_order_is_there, place_all, reaches},
    },
};

/// Returns a deployment whose databases are on the Citus, and that; `None` if there is none.
async fn on_citus() -> Option<(Stack, Citus)> {
    match std::env::var("AMENDS_TEST_CITUS") {
        Ok(url) => {
            let citus = Citus::at(&url).unwrap();
            Some((Stack::on_citus(Broker::embedded(), &citus).await, citus))
        }
        Err(_) => {
            eprintln!("left out: AMENDS_TEST_CITUS names no Citus");
            None
        }
    }
}

/// Returns the ids of orders that are on a node, or are not.
async fn orders_on(engine: &PgPool, node: &Node) -> HashSet<String> {
    let on = "SELECT h.home::int2 FROM generate_series(0, 3) AS h (home)
              JOIN citus_shards AS s ON s.shardid = get_shard_id_for_distribution_column('sagas', h.home)
              WHERE s.nodename = $1 AND s.nodeport = $2";
    let homes: Vec<i16> =
        sqlx::query_scalar(on).bind(&node.host).bind(i32::from(node.port)).fetch_all(engine).await.unwrap();
    let mut all = HashSet::new();
    for home in homes {
        let ids: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT id FROM orders WHERE home = $1")
            .bind(home)
            .fetch_all(engine)
            .await
            .unwrap();
        all.extend(ids.into_iter().map(|id| id.to_string()));
    }
    all
}

/// Places orders without keys until so many are accepted; returns their ids.
async fn place(client: &Client, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        match client.try_place(&order("mug", 1, "card_approved", "AT"), None).await {
            Some(answer) if answer.status == 201 => ids.push(answer.body["id"].as_str().unwrap().to_owned()),
            Some(answer) => assert_eq!(answer.status, 503, "{}", answer.body),
            None => {}
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_stops_no_order_of_another_and_a_shard_that_moves_loses_none() {
    let _turn = CITUS_TURN.lock().await;
    let Some((stack, citus)) = on_citus().await else { return };
    let engine = stack.pool("engine");
    let nodes = citus.workers().await.unwrap();
    let [victim, other, ..] = nodes.as_slice() else { panic!("two worker nodes are needed: {nodes:?}") };
    let all = stack.start_all().await;
    load::stock(&stack).await;
    let clients = clients(&all);
    let before = place(&clients[0], 20).await;
    // The doctor looks at each node, and at what waits on all of them.
    let name = |node: &Node| format!("database engine on {node}: ");
    let (_, findings) = examined(&stack);
    let good = of_grade(&findings, "good");
    for part in
        [format!("{}Postgres", name(victim)), format!("{}Postgres", name(other)), "sagas: timers".into()]
    {
        assert!(good.iter().any(|found| found.starts_with(&part)), "{part}: {findings:?}");
    }

    citus.turn_away(victim).await.unwrap();
    let (status, findings) = examined_with(&stack, &[AWAY]);
    let (wrong, silent) = (of_grade(&findings, "wrong"), format!("{}does not answer", name(victim)));
    assert!(status == 1 && wrong.iter().any(|found| found.starts_with(&silent)), "{wrong:?}");
    // Some moments belong to its homes; the others' orders are placed, and fulfilled, while it is away.
    let meanwhile = place(&clients[0], 20).await;
    eventually("orders of the other nodes are fulfilled", LONG, || async {
        for id in &meanwhile {
            match clients[0].try_get(&format!("/api/orders/{id}")).await {
                Some((200, body)) if body["status"] == "FULFILLED" => {}
                _ => return None,
            }
        }
        Some(())
    })
    .await;
    citus.let_in(victim).await.unwrap();
    let on_victim = orders_on(engine, victim).await;
    assert!(meanwhile.iter().all(|id| !on_victim.contains(id)), "none was placed on a node that is away");
    assert!(before.iter().any(|id| on_victim.contains(id)), "the test says something");

    // A group of shards moves there and back while orders run.
    let placed = AtomicUsize::new(0);
    let moving = async {
        reaches(&placed, 50).await;
        for (from, to) in [(victim, other), (other, victim)] {
            assert!(citus.move_home(from, to).await.unwrap(), "it has a home");
            eprintln!("a home has moved after {} orders", placed.load(Ordering::Relaxed));
        }
    };
    let (ids, ()) = join(place_all(&clients, 200, &placed), moving).await;
    books::settle(&stack).await;
    every_order_is_there(&stack, &[before, meanwhile, ids].concat()).await;
    books::balance(&stack).await;
    drop(all);
    tokio::time::timeout(LONG, stack.pool("engine").close()).await.unwrap();
}
