//! All processes lose the database at the same moment, and then the broker. They try to reconnect at different times,
//! not all at once, and no two processes of a role in step.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Check, Error, Finding};
use crate::{
    campaign::{client::Client, fleet::Fleet, record::Record, workload},
    deployment::Options,
};

const ORDERS: usize = 200;
const RATE: f64 = 40.0;
/// Duration of the outage of the database, and of the broker.
const AWAY: Duration = Duration::from_secs(12);
/// The first attempts are simultaneous, because the cut is.
const BEGINNING: Duration = Duration::from_millis(1_500);
/// Attempts of two processes that are at most this far apart are in step.
const STEP: Duration = Duration::from_millis(25);
/// The second process of a role may be in step with the first by chance: this share of the attempts of all roles, and a
/// larger one of any single role that tried at least `ENOUGH` times. With fixed pauses it would always be in step.
const IN_STEP: f64 = 0.3;
const IN_STEP_OF_ONE: f64 = 0.6;
const ENOUGH: usize = 5;
/// Maximum share of all attempts to reach the broker in the busiest tenth of a second.
const BUSIEST: f64 = 0.06;
const TENTH: Duration = Duration::from_millis(100);
const BACK: Duration = Duration::from_secs(30);

pub(super) async fn measure(program: &Path) -> Result<Finding, Error> {
    let fleet = Fleet::start(Options::new(program)).await?;
    let record = Record::default();
    let client = Client::new(&fleet.apis(), record.clone());
    workload::stock(&client, ORDERS).await;
    let never = CancellationToken::new();
    let load = async {
        workload::run(&client, ORDERS, RATE, 1, &never).await;
    };
    let storms = async {
        sleep(Duration::from_secs(2)).await;
        let database = lose_database(&fleet).await;
        let back = workload::canary(&client, "after the database", BACK).await;
        let broker = lose_broker(&fleet).await;
        let back_again = workload::canary(&client, "after the broker", BACK).await;
        (database, back, broker, back_again)
    };
    let ((), (roles, back, (attempts, busiest), back_again)) = tokio::join!(load, storms);
    fleet.end().await;

    let mut check = Check::default();
    let mut shown = Vec::new();
    let (mut tried, mut with_another) = (0, 0);
    for Role { name, attempts, of_second, in_step } in roles {
        // An api tries whenever a client sends a request: it has no pauses that could be in step.
        if name == "api" {
            shown.push(format!("api {attempts} attempts, one for each time that a client asked"));
            continue;
        }
        (tried, with_another) = (tried + of_second, with_another + in_step);
        let often = in_step as f64 / of_second as f64;
        check.that(of_second < ENOUGH || often <= IN_STEP_OF_ONE, || {
            format!("{in_step} of {of_second} attempts of the second {name} are in step with the first")
        });
        shown.push(format!("{name} {attempts} attempts, {in_step} of {of_second} in step"));
    }
    let often = with_another as f64 / tried.max(1) as f64;
    check.that(tried > 0 && often <= IN_STEP, || format!("{with_another} of {tried} attempts are in step"));
    check.that(attempts > 0 && busiest <= BUSIEST, || {
        format!("{:.0} % of all attempts to reach the broker in one tenth of a second", busiest * 100.0)
    });
    check.that(back.is_some() && back_again.is_some(), || {
        format!("an order placed afterwards did not come through: {back:?}, {back_again:?}")
    });
    let seconds =
        |time: Option<Duration>| time.map_or("never".to_owned(), |t| format!("{:.1} s", t.as_secs_f64()));
    Ok(Finding {
        asked: "after an outage nobody comes back in step: of two processes of a role ≤ 30 % of attempts (60 % of any one role's) within 25 ms of each other, of all clients of the broker ≤ 6 % of attempts in a tenth of a second",
        measured: format!(
            "database away {} s: {}; an order then took {}; broker away as long: {attempts} attempts, {:.1} % of them in the busiest tenth of a second; an order then took {}",
            AWAY.as_secs(),
            shown.join(", "),
            seconds(back),
            busiest * 100.0,
            seconds(back_again)
        ),
        broken: check.0,
    })
}

/// How the two processes of a role tried to reconnect.
struct Role {
    name: &'static str,
    attempts: usize,
    of_second: usize,
    in_step: usize,
}

/// Cuts all connections to the database, and accepts none for a while.
async fn lose_database(fleet: &Fleet) -> Vec<Role> {
    let cut = Instant::now();
    for member in &fleet.members {
        member.proxy.refuse(true);
        member.proxy.cut(|| true);
    }
    sleep(AWAY).await;
    for member in &fleet.members {
        member.proxy.heal();
    }
    let later = |at: &Instant| *at > cut + BEGINNING;
    let mut roles = Vec::new();
    for pair in fleet.members.chunks(2) {
        let [first, second] = pair else { continue };
        let first_at: Vec<_> = first.proxy.refused_at().into_iter().filter(later).collect();
        let second_at: Vec<_> = second.proxy.refused_at().into_iter().filter(later).collect();
        // A process that needs nothing from the database does not try.
        if first_at.is_empty() || second_at.is_empty() {
            continue;
        }
        let near = |at: &&Instant| first_at.iter().any(|other| apart(**at, *other) <= STEP);
        roles.push(Role {
            name: first.role[first.role.len() - 1],
            attempts: first_at.len() + second_at.len(),
            of_second: second_at.len(),
            in_step: second_at.iter().filter(near).count(),
        });
    }
    roles
}

/// The same for the broker, which all reach through one proxy: returns the number of attempts, and the share of the
/// busiest tenth of a second.
async fn lose_broker(fleet: &Fleet) -> (usize, f64) {
    let cut = Instant::now();
    fleet.kafka_proxy.refuse(true);
    fleet.kafka_proxy.cut(|| true);
    sleep(AWAY).await;
    fleet.kafka_proxy.heal();
    let later = |at: &Instant| *at > cut + BEGINNING;
    let attempts: Vec<_> = fleet.kafka_proxy.refused_at().into_iter().filter(later).collect();
    let within = |from: &Instant| attempts.iter().filter(|at| **at >= *from && **at < *from + TENTH).count();
    let busiest = attempts.iter().map(within).max().unwrap_or(0);
    (attempts.len(), busiest as f64 / attempts.len().max(1) as f64)
}

fn apart(a: Instant, b: Instant) -> Duration {
    a.max(b) - a.min(b)
}
