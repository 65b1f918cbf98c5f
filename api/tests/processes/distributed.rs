//! The roles over a real Citus, where `AMENDS_TEST_CITUS` names a coordinator: a node that is away stops no order of another
//! node's homes, and a shard that moves loses none. Afterwards the books balance.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use amends_testkit::eventually;
use futures::future::join;
use sqlx::{ConnectOptions, PgConnection, PgPool, postgres::PgConnectOptions};

use crate::{
    books,
    support::{
        Broker, CITUS_TURN, LONG, Stack,
        client::{Client, order},
        clients,
        load::{self, every_order_is_there, place_all, reaches},
    },
};

/// Returns a deployment whose databases are on the Citus; `None` if there is none.
async fn on_citus() -> Option<Stack> {
    match std::env::var("AMENDS_TEST_CITUS") {
        Ok(url) => Some(Stack::on_citus(Broker::embedded(), &url).await),
        Err(_) => {
            eprintln!("left out: AMENDS_TEST_CITUS names no Citus");
            None
        }
    }
}

/// A worker node: where it is, and the shards of the sagas there.
#[derive(Debug, Clone)]
struct Node {
    host: String,
    port: i32,
}

async fn worker_nodes(engine: &PgPool) -> Vec<Node> {
    let nodes: Vec<(String, i32)> = sqlx::query_as(
        "SELECT nodename, nodeport FROM pg_dist_node WHERE noderole = 'primary' AND shouldhaveshards ORDER BY nodeid",
    )
    .fetch_all(engine)
    .await
    .unwrap();
    nodes.into_iter().map(|(host, port)| Node { host, port }).collect()
}

impl Node {
    /// Connects to another database of the node.
    async fn connect(&self, engine: &PgPool) -> PgConnection {
        let options = PgConnectOptions::clone(&engine.connect_options());
        let options = options.host(&self.host).port(u16::try_from(self.port).unwrap()).database("postgres");
        options.connect().await.unwrap()
    }

    /// From now on the node's engine database accepts no connection, and has none.
    async fn goes(&self, engine: &PgPool) {
        let mut node = self.connect(engine).await;
        let go = "ALTER DATABASE amends_engine ALLOW_CONNECTIONS false;
                  SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'amends_engine'";
        sqlx::raw_sql(go).execute(&mut node).await.unwrap();
    }

    async fn comes_back(&self, engine: &PgPool) {
        let mut node = self.connect(engine).await;
        sqlx::raw_sql("ALTER DATABASE amends_engine ALLOW_CONNECTIONS true")
            .execute(&mut node)
            .await
            .unwrap();
    }
}

/// Returns the ids of orders that are on a node, or are not.
async fn orders_on(engine: &PgPool, node: &Node) -> HashSet<String> {
    let on = "SELECT h.home::int2 FROM generate_series(0, 3) AS h (home)
              JOIN citus_shards AS s ON s.shardid = get_shard_id_for_distribution_column('sagas', h.home)
              WHERE s.nodename = $1 AND s.nodeport = $2";
    let homes: Vec<i16> =
        sqlx::query_scalar(on).bind(&node.host).bind(node.port).fetch_all(engine).await.unwrap();
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
    let Some(stack) = on_citus().await else { return };
    let engine = stack.pool("engine");
    let nodes = worker_nodes(engine).await;
    let [victim, other, ..] = nodes.as_slice() else { panic!("two worker nodes are needed: {nodes:?}") };
    let all = stack.start_all().await;
    load::stock(&stack).await;
    let clients = clients(&all);
    let before = place(&clients[0], 20).await;

    victim.goes(engine).await;
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
    victim.comes_back(engine).await;
    let on_victim = orders_on(engine, victim).await;
    assert!(meanwhile.iter().all(|id| !on_victim.contains(id)), "none was placed on a node that is away");
    assert!(before.iter().any(|id| on_victim.contains(id)), "the test says something");

    // A group of shards moves there and back while orders run.
    let placed = AtomicUsize::new(0);
    let moving = async {
        reaches(&placed, 50).await;
        for (from, to) in [(victim, other), (other, victim)] {
            let shard = "SELECT citus_move_shard_placement(shardid, $1, $2, $3, $4, 'block_writes')
                         FROM (SELECT min(s.shardid) AS shardid FROM generate_series(0, 3) AS h (home)
                               JOIN citus_shards AS s ON s.shardid = get_shard_id_for_distribution_column('slot_positions', h.home)
                               WHERE s.nodename = $1 AND s.nodeport = $2) AS s";
            let query = sqlx::query(shard).bind(&from.host).bind(from.port).bind(&to.host).bind(to.port);
            query.execute(engine).await.unwrap();
            eprintln!("a home has moved after {} orders", placed.load(Ordering::Relaxed));
        }
    };
    let (ids, ()) = join(place_all(&clients, 200, &placed), moving).await;
    books::settle(&stack).await;
    every_order_is_there(&stack, &[before, meanwhile, ids].concat()).await;
    books::balance(&stack).await;
    drop(all);
    tokio::time::timeout(Duration::from_secs(10), stack.pool("engine").close()).await.unwrap();
}
