//! Roles are stopped and started again, one after the other, while customers order: behind a load balancer that asks for
//! readiness, nobody notices.

use std::{
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use amends_proof::deployment::ROLES;
use amends_testkit::eventually;
use futures::{StreamExt, future::join, stream};
use reqwest::StatusCode;

use crate::{
    books,
    support::{
        Broker, LONG, Process, Stack,
        client::order,
        load::{self, every_order_is_there},
    },
};

const STOP_DELAY: &str = "AMENDS_STOP_DELAY";
/// How often the load balancer asks whether an api is ready: often enough within the delay.
const LOOK: Duration = Duration::from_millis(200);
/// Within this time after the delay a role has ended.
const DRAINED_WITHIN: Duration = Duration::from_secs(10);

fn terminate(process: &Process) {
    let told = Command::new("sh").args(["-c", &format!("kill -TERM {}", process.id())]).status();
    assert!(told.unwrap().success());
}

#[tokio::test]
async fn a_role_that_is_told_to_stop_says_so_and_serves_until_the_delay_is_over() {
    let mut stack = Stack::embedded().await;
    stack.set(STOP_DELAY, "5s");
    let mut api = stack.start(&["api"]).await;
    let client = api.client();
    terminate(&api);
    let told = Instant::now();
    let body = eventually("it is not ready", LONG, || async {
        let (status, body) = client.try_get("/health/ready").await?;
        (status == 503).then_some(body)
    })
    .await;
    assert_eq!((&body["status"], &body["checks"]["process"]), (&"not ready".into(), &"stopping".into()));
    let url = format!("http://{}/api/orders", api.address);
    let asked = reqwest::Client::new().post(url).json(&order("mug", 1, "card_approved", "AT")).send();
    let answer = asked.await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(answer.headers()["connection"], "close");
    assert!(api.ended().await.success());
    let took = told.elapsed();
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(5) + DRAINED_WITHIN, "{took:?}");
}

/// A load balancer: requests go in turn to the apis that were ready at the last look.
struct Balancer {
    http: reqwest::Client,
    apis: Vec<String>,
    ready: Vec<AtomicBool>,
    turn: AtomicUsize,
    /// How long the answers took.
    answers: Mutex<Vec<Duration>>,
}

impl Balancer {
    fn of(all: &[Process]) -> Self {
        let apis: Vec<String> = all
            .iter()
            .filter(|process| process.role == "api")
            .map(|process| format!("http://{}", process.address))
            .collect();
        let ready = apis.iter().map(|_| AtomicBool::new(true)).collect();
        let http = reqwest::Client::builder().timeout(LONG).build().unwrap();
        Self { http, apis, ready, turn: AtomicUsize::default(), answers: Mutex::default() }
    }

    async fn look_until(&self, over: &AtomicBool) {
        let mut pace = tokio::time::interval(LOOK);
        while !over.load(Ordering::Relaxed) {
            pace.tick().await;
            for (api, ready) in self.apis.iter().zip(&self.ready) {
                let answer = self.http.get(format!("{api}/health/ready")).send().await;
                ready.store(answer.is_ok_and(|answer| answer.status() == StatusCode::OK), Ordering::Relaxed);
            }
        }
    }

    /// Places an order, without repeating anything; returns its id.
    async fn place(&self) -> String {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let of = |offset: usize| (turn + offset) % self.apis.len();
        let chosen = (0..self.apis.len()).map(of).find(|at| self.ready[*at].load(Ordering::Relaxed));
        let api = &self.apis[chosen.expect("one of two apis is always ready")];
        let asked = Instant::now();
        let request =
            self.http.post(format!("{api}/api/orders")).json(&order("mug", 1, "card_approved", "AT"));
        let answer = request.send().await.unwrap_or_else(|error| panic!("{api}: {error:?}"));
        assert_eq!(answer.status(), StatusCode::CREATED, "{api}");
        self.answers.lock().unwrap().push(asked.elapsed());
        let body: serde_json::Value = answer.json().await.unwrap();
        body["id"].as_str().unwrap().to_owned()
    }

    /// Places twenty orders a second until it is over.
    async fn place_until(&self, over: &AtomicBool) -> Vec<String> {
        let pace = tokio::time::interval(Duration::from_millis(50));
        let orders = stream::unfold(pace, |mut pace| async move {
            pace.tick().await;
            (!over.load(Ordering::Relaxed)).then_some(((), pace))
        });
        orders.map(|()| self.place()).buffer_unordered(64).collect().await
    }

    /// Returns the answers' 99th percentile, and begins anew.
    fn p99(&self) -> Duration {
        let mut answers = std::mem::take(&mut *self.answers.lock().unwrap());
        answers.sort_unstable();
        answers[answers.len() * 99 / 100]
    }
}

#[tokio::test]
async fn a_rolling_restart_of_every_role_loses_nothing_and_no_customer_notices() {
    let Some(broker) = Broker::apache().await else { return };
    let mut stack = Stack::new(broker).await;
    stack.set(STOP_DELAY, "1s");
    let mut all = stack.start_all().await;
    load::stock(&stack).await;
    let balancer = Balancer::of(&all);
    let over = AtomicBool::new(false);
    let restarts = async {
        eventually("enough orders to compare with", LONG, || async {
            (balancer.answers.lock().unwrap().len() >= 200).then_some(())
        })
        .await;
        let before = balancer.p99();
        // Of each worker one: the other goes on with what it leaves.
        let is_other_worker =
            |at: usize, process: &Process| at >= ROLES.len() && process.role.starts_with("worker");
        for (_, process) in all.iter_mut().enumerate().filter(|(at, process)| !is_other_worker(*at, process))
        {
            terminate(process);
            let told = Instant::now();
            assert!(process.ended().await.success(), "{}", process.role);
            assert!(told.elapsed() < Duration::from_secs(1) + DRAINED_WITHIN, "{}", process.role);
            process.start_again(&stack);
            process.ready().await;
        }
        let meanwhile = balancer.p99();
        over.store(true, Ordering::Relaxed);
        (before, meanwhile)
    };
    let ((ids, (before, meanwhile)), ()) =
        join(join(balancer.place_until(&over), restarts), balancer.look_until(&over)).await;
    books::settle(&stack).await;
    every_order_is_there(&stack, &ids).await;
    books::balance(&stack).await;
    println!("{} orders; p99 of an answer {before:?} before, {meanwhile:?} meanwhile", ids.len());
    // A process that starts takes a core of two, and a tenth of a second is what that may cost.
    assert!(meanwhile <= (before * 3).max(Duration::from_millis(100)), "{before:?}, then {meanwhile:?}");
}
