//! The embedded broker as a separate process, as `dev` uses it.

use std::{
    os::unix::process::CommandExt,
    process::Command,
    time::{Duration, Instant},
};

use amends_embedded::{BrokerOptions, BrokerPlan, BrokerProcess, broker_process::serve};
use amends_testkit::eventually;
use rdkafka::{
    ClientConfig, Message,
    consumer::{Consumer, StreamConsumer},
    producer::{FutureProducer, FutureRecord},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test: the program that the tests run as a separate process.
#[test]
fn serves_as_a_broker_when_asked_to() {
    let Ok(plan) = std::env::var("SERVE_AS_A_BROKER") else { return };
    serve(&plan.parse().unwrap()).unwrap();
}

async fn start() -> BrokerProcess {
    let command = |plan: &BrokerPlan| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["serves_as_a_broker_when_asked_to", "--exact"]);
        command.env("SERVE_AS_A_BROKER", plan.to_string());
        command
    };
    BrokerProcess::start(BrokerOptions::default(), vec![("words".into(), 3)], command).await.unwrap()
}

fn consumer(broker: &BrokerProcess, assignor: &str) -> StreamConsumer {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap_servers())
        .set("reconnect.backoff.max.ms", "200")
        .set("group.id", "readers")
        .set("partition.assignment.strategy", assignor)
        .set("auto.offset.reset", "earliest")
        .set("session.timeout.ms", "3000")
        .set("fetch.wait.max.ms", "10")
        .create()
        .unwrap();
    consumer.subscribe(&["words"]).unwrap();
    consumer
}

/// Produces this word repeatedly until the consumer has it, as the engine does while there is no answer.
async fn arrives(broker: &BrokerProcess, consumer: &StreamConsumer, word: &str) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap_servers())
        .set("reconnect.backoff.max.ms", "200")
        .set("message.timeout.ms", "1000")
        .create()
        .unwrap();
    eventually(word, PATIENCE, async || {
        let _ = producer.send(FutureRecord::<(), _>::to("words").payload(word), Duration::ZERO).await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            match tokio::time::timeout(Duration::from_millis(200), consumer.recv()).await {
                Ok(Ok(message)) if message.payload() == Some(word.as_bytes()) => return Some(()),
                _ => {}
            }
        }
        None
    })
    .await;
}

#[tokio::test]
async fn what_is_produced_arrives() {
    let broker = start().await;
    arrives(&broker, &consumer(&broker, "cooperative-sticky"), "hello").await;
}

/// librdkafka's mock cluster asserts that all members of a group have the same assignor, and aborts.
#[tokio::test]
async fn a_member_with_another_assignor_ends_the_broker_s_process_which_comes_back_at_the_same_address() {
    let broker = start().await;
    let ours = consumer(&broker, "cooperative-sticky");
    arrives(&broker, &ours, "before").await;

    let foreign = consumer(&broker, "range,roundrobin");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        let _ = tokio::time::timeout(Duration::from_millis(100), foreign.recv()).await;
        let _ = tokio::time::timeout(Duration::from_millis(100), ours.recv()).await;
    }
    drop(foreign);
    // As a source does when its topic was replaced.
    drop(ours);
    arrives(&broker, &consumer(&broker, "cooperative-sticky"), "after").await;
}

#[tokio::test]
async fn another_user_of_the_machine_is_not_served() {
    use std::os::unix::fs::MetadataExt;
    let broker = start().await;
    // Requests the versions of the API; the answer begins with its length in bytes.
    let ask = format!(
        r"exec 3<>/dev/tcp/{} && printf '\0\0\0\012\0\022\0\0\0\0\0\01\377\377' >&3 && head -c 4 <&3 | wc -c",
        broker.bootstrap_servers().replace(':', "/")
    );
    let asked_by = |user: Option<u32>| {
        let mut command = Command::new("bash");
        command.args(["-c", &ask]).current_dir("/");
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let output = command.output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(asked_by(None), "4");
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        assert_ne!(asked_by(Some(65_533)), "4");
    }
}

#[tokio::test]
async fn its_own_port_is_closed_to_the_machine_where_the_kernel_allows_that() {
    let broker = start().await;
    // Root may leave the network as it is; others, and not where the kernel forbids it, with a user namespace.
    let may = |namespaces: &[&str]| {
        let unshared = Command::new("unshare").args(namespaces).arg("true").status();
        unshared.is_ok_and(|status| status.success())
    };
    assert_eq!(broker.is_private(), may(&["--net"]) || may(&["--user", "--net"]));
}
