//! All connections to the database go silent for ten minutes, in all processes at once: nothing passes on the existing
//! connections, neither side gets an error, and new connections work. Each role recovers on another connection, and
//! reports that it is not ready meanwhile.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio::time::sleep;

use super::{
    Check, Error, Finding,
    load::{PRODUCT, PlacementAnswer, Shop, one, steadily},
    stage::settled_books,
};
use crate::{
    books::Ledger,
    campaign::{client::Client, fleet::Fleet, record::Record, workload},
    deployment::Options,
};

const SILENCE: Duration = Duration::from_secs(600);
/// Orders per second.
const RATE: f64 = 10.0;
/// Time before the silence, and within it until the last orders.
const CALM: Duration = Duration::from_secs(5);
/// A role must recover within this time.
const BACK: Duration = Duration::from_secs(30);
/// How long a role's readiness is watched.
const WATCHED: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(250);

pub(super) async fn measure(program: &Path) -> Result<Finding, Error> {
    let fleet = Fleet::start(Options::new(program)).await?;
    let record = Record::default();
    let client = Client::new(&fleet.apis(), record.clone());
    client.stock(PRODUCT, 1_000_000_000).await;
    client.stock("canary", 1_000_000_000).await;
    let shop = Shop::new(fleet.apis()[0]);
    let body = one("card_approved");
    let load = steadily(&shop, RATE, SILENCE, &body, "silent");
    let silence = async {
        sleep(CALM).await;
        let connections: usize = fleet.members.iter().map(|member| member.proxy.silence(SILENCE)).sum();
        let watched = fleet.members.iter().map(|member| watch(&member.name, member.address));
        let canary = workload::canary(&client, "in the silence", WATCHED);
        let (roles, canary) = tokio::join!(join_all(watched), canary);
        (connections, roles, canary)
    };
    let (answers, (connections, roles, canary)) = tokio::join!(load, silence);
    let orders = answers.len();
    let Ledger { mut told, .. } = record.ledger();
    let mut turned_away = Vec::new();
    for (key, answer) in answers {
        match answer {
            PlacementAnswer::Placed(id) => told.push((Some(key), id)),
            _ => turned_away.push(key),
        }
    }
    // A refused client repeats its request with the same key, and gets one order.
    let mut lost = 0;
    for key in &turned_away {
        match shop.place(body.clone(), key.clone()).await {
            PlacementAnswer::Placed(id) => told.push((Some(key.clone()), id)),
            _ => lost += 1,
        }
    }
    let turned_away = turned_away.len();
    let ledger = Ledger { told, ..Ledger::default() };
    let report = settled_books(&fleet.deployment, &ledger).await?;
    fleet.end().await;

    let mut check = Check::default();
    let mut slowest = Duration::ZERO;
    for Watched { name, was_not_ready, back } in &roles {
        check.that(*was_not_ready, || format!("{name} said nothing of it"));
        check.that(back.is_some_and(|back| back <= BACK), || format!("{name} was ready again: {back:?}"));
        slowest = slowest.max(back.unwrap_or(WATCHED));
    }
    check.that(canary.is_some_and(|took| took <= BACK), || format!("an order took {canary:?}"));
    check.that(lost == 0, || format!("{lost} orders were turned away again, long after"));
    check.that(turned_away as f64 <= RATE * BACK.as_secs_f64(), || {
        format!("{turned_away} orders were turned away: more than come in {} s", BACK.as_secs())
    });
    check.that(report.violations() == 0, || format!("the books: {report}"));
    let seconds =
        |time: Option<Duration>| time.map_or("never".to_owned(), |t| format!("{:.1} s", t.as_secs_f64()));
    Ok(Finding {
        asked: "the way to the database silent for ten minutes, no FIN: every role says so and goes on within 30 s on another connection, and so does an order",
        measured: format!(
            "{connections} connections of {} processes silent; the last was ready again after {}; an order placed into the silence took {}; of {orders} orders at {RATE}/s {turned_away} were turned away, {} violations",
            roles.len(),
            seconds(Some(slowest)),
            seconds(canary),
            report.violations()
        ),
        broken: check.0,
    })
}

/// What a process reported.
struct Watched {
    name: String,
    was_not_ready: bool,
    /// When it was ready for good, counted from the beginning of the silence.
    back: Option<Duration>,
}

async fn watch(name: &str, address: SocketAddr) -> Watched {
    let http = reqwest::Client::new();
    let (begun, mut was_not_ready, mut back) = (Instant::now(), false, None);
    while begun.elapsed() < WATCHED {
        let answer = http.get(format!("http://{address}/health/ready")).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            back = back.or_else(|| Some(begun.elapsed()));
        } else {
            (was_not_ready, back) = (true, None);
        }
        sleep(LOOK).await;
    }
    Watched { name: name.to_owned(), was_not_ready, back }
}
