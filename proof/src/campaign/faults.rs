//! The faults, and how they are injected.

use std::time::Duration;

use amends_api::services;
use rand::{RngExt, rngs::StdRng};
use rustix::process::Signal;
use tokio::time::sleep;

use super::{
    Error,
    broker::{self, Broker},
    fleet::{Fleet, SESSION},
    record::Record,
};
use crate::{books::Poison, deployment::PARTICIPANTS, proxy::Around};

/// How long silent connections carry nothing; what was sent meanwhile arrives afterwards.
const SILENCE: Duration = Duration::from_secs(45);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// kill -9 of an engine.
    KillEngine,
    /// kill -9 of a worker.
    KillWorker,
    /// kill -9 of an api.
    KillApi,
    /// SIGTERM, and a restart.
    StopAny,
    /// An engine frozen past its session, then thawed.
    FreezeEngine,
    /// A worker frozen past its session, then thawed.
    FreezeWorker,
    /// One more process of a role, which is then killed.
    ComeAndGo,
    /// Postgres stops at once; recovery at its next start.
    PostgresImmediate,
    /// Postgres shuts down in order.
    PostgresFast,
    /// Half of all backends are terminated.
    TerminateBackends,
    /// kill -9 of the broker, and a restart.
    BrokerKilled,
    /// The broker frozen, then thawed.
    BrokerFrozen,
    /// A topic of commands or replies is deleted and created again.
    TopicRecreated,
    /// Unreadable messages.
    Poison,
    /// A process' connections to Postgres are cut, and refused for a while.
    PostgresCut,
    /// A process' connections to Postgres are slow.
    PostgresSlow,
    /// A process' connections to Postgres are open and silent.
    PostgresHangs,
    /// A process' connections to Postgres are silent for longer than any call waits; new ones work.
    PostgresSilent,
    /// The answers to COMMIT are lost.
    CommitAnswersLost,
    /// COMMITs are lost on their way.
    CommitsLost,
    /// Half of the connections to the broker are cut, several times.
    BrokerCut,
    /// Connections to the broker are slow.
    BrokerSlow,
    /// A node of the distributed database crashes and recovers.
    NodeCrashed,
    /// A node of the distributed database is away for a while.
    NodeAway,
    /// Homes of the distributed database move from one node to another, and back.
    HomesMoved,
}

use Kind::*;

/// Those of the deployment's own Postgres.
const OF_ONE_POSTGRES: [Kind; 2] = [PostgresImmediate, PostgresFast];

/// Those of a distributed database.
const OF_NODES: [Kind; 3] = [NodeCrashed, NodeAway, HomesMoved];

/// Returns the kinds that a deployment can have.
pub fn possible(is_distributed: bool) -> Vec<Kind> {
    let others: &[Kind] = if is_distributed { &OF_ONE_POSTGRES } else { &OF_NODES };
    ALL.into_iter().filter(|kind| !others.contains(kind)).collect()
}

/// All kinds.
pub const ALL: [Kind; 25] = [
    KillEngine,
    KillWorker,
    KillApi,
    StopAny,
    FreezeEngine,
    FreezeWorker,
    ComeAndGo,
    PostgresImmediate,
    PostgresFast,
    TerminateBackends,
    BrokerKilled,
    BrokerFrozen,
    TopicRecreated,
    Poison,
    PostgresCut,
    PostgresSlow,
    PostgresHangs,
    PostgresSilent,
    CommitAnswersLost,
    CommitsLost,
    BrokerCut,
    BrokerSlow,
    NodeCrashed,
    NodeAway,
    HomesMoved,
];

/// Faults of RELIABILITY that are not injected here, and why.
pub const NOT_RUN: [(&str, &str); 6] = [
    ("clocks apart", "needs a clock of its own for each process; the simulator's"),
    (
        "disk full",
        "needs a small file system mounted; a test of whole processes has one, where it may mount it",
    ),
    ("failover to a standby", "one Postgres here; tests of whole processes have two"),
    (
        "old and new version side by side",
        "tests of whole processes have old workers, and two builds through a rolling upgrade and back",
    ),
    ("the broker loses acknowledged messages by itself", "stands in for it: the topic recreated"),
    ("10 MB message", "the broker itself refuses more than 1 MB; 900 kB is produced"),
];

impl Kind {
    /// Returns the name for people.
    pub fn name(self) -> &'static str {
        match self {
            KillEngine => "engine killed (-9)",
            KillWorker => "worker killed (-9)",
            KillApi => "api killed (-9)",
            StopAny => "process stopped (TERM), started again",
            FreezeEngine => "engine frozen past its session, thawed",
            FreezeWorker => "worker frozen past its session, thawed",
            ComeAndGo => "one more process, killed again",
            PostgresImmediate => "Postgres stopped at once",
            PostgresFast => "Postgres stopped in good order",
            TerminateBackends => "half of the backends terminated",
            BrokerKilled => "broker killed (-9)",
            BrokerFrozen => "broker frozen, thawed",
            TopicRecreated => "topic deleted and made again",
            Poison => "poison messages",
            PostgresCut => "way to Postgres cut",
            PostgresSlow => "way to Postgres slow (50 ms each way)",
            PostgresHangs => "way to Postgres open and silent",
            PostgresSilent => "connections to Postgres silent for 45 s, new ones work",
            CommitAnswersLost => "answers to COMMIT lost",
            CommitsLost => "COMMITs lost on their way",
            BrokerCut => "half of the ways to the broker cut",
            BrokerSlow => "way to the broker slow (50 ms each way)",
            NodeCrashed => "node of the Citus crashed (-9), recovers",
            NodeAway => "node of the Citus away",
            HomesMoved => "homes of the Citus moved to another node and back",
        }
    }
}

/// Injects a fault and ends it; returns what it affected. A fault of a process ends when the process is restarted or
/// continues; a fault of a server, when the server is available again.
pub async fn inject(
    kind: Kind,
    fleet: &mut Fleet,
    broker: &Broker,
    record: &Record,
    random: &mut StdRng,
) -> Result<String, Error> {
    let workers: Vec<&str> = services::workers().map(|service| service.name).collect();
    let joined = [&["engine"][..], PARTICIPANTS.as_slice()].concat();
    let millis =
        |random: &mut StdRng, from: u64, to: u64| Duration::from_millis(random.random_range(from..to));
    let pick = |fleet: &Fleet, random: &mut StdRng, roles: &[&str]| {
        let of = fleet.of(roles);
        of[random.random_range(0..of.len())]
    };
    let anybody = [&["engine", "api"][..], PARTICIPANTS.as_slice()].concat();
    match kind {
        KillEngine | KillWorker | KillApi => {
            let roles: &[&str] = match kind {
                KillEngine => &["engine"],
                KillApi => &["api"],
                _ => workers.as_slice(),
            };
            let at = pick(fleet, random, roles);
            fleet.kill(at);
            sleep(millis(random, 0, 2000)).await;
            fleet.spawn(at)?;
            Ok(fleet.members[at].name.clone())
        }
        StopAny => {
            let at = pick(fleet, random, &[&["engine", "api"][..], workers.as_slice()].concat());
            let took = fleet.stop(at).await;
            fleet.spawn(at)?;
            Ok(format!("{} ({} ms to end)", fleet.members[at].name, took.as_millis()))
        }
        FreezeEngine | FreezeWorker => {
            let at = pick(fleet, random, if kind == FreezeEngine { &["engine"] } else { workers.as_slice() });
            fleet.freeze(at);
            sleep(SESSION + millis(random, 500, 2000)).await;
            fleet.thaw(at);
            Ok(fleet.members[at].name.clone())
        }
        ComeAndGo => {
            let at = pick(fleet, random, &joined);
            let another = fleet.spawn_another(at)?;
            sleep(millis(random, 500, 2500)).await;
            drop(another);
            Ok(format!("beside {}", fleet.members[at].name))
        }
        PostgresImmediate => fleet.signal_postgres(Signal::QUIT).map(|()| "server".into()),
        PostgresFast => fleet.signal_postgres(Signal::INT).map(|()| "server".into()),
        TerminateBackends => {
            let pool = fleet.deployment.pool("engine");
            let share = random.random_range(0.3..0.9_f64);
            let ended: Result<i64, _> = sqlx::query_scalar(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE usename LIKE 'amends%' AND random() < $1",
            )
            .bind(share)
            .fetch_one(&pool)
            .await;
            pool.close().await;
            Ok(format!("{} backends", ended?))
        }
        BrokerKilled => {
            fleet.deployment.kafka.kill();
            sleep(millis(random, 0, 2000)).await;
            fleet.deployment.kafka.restart().await?;
            Ok("broker".into())
        }
        BrokerFrozen => {
            let pid = fleet.deployment.kafka.pid().and_then(|p| i32::try_from(p).ok());
            let pid = pid.and_then(rustix::process::Pid::from_raw);
            let signal = |signal| pid.map(|pid| rustix::process::kill_process(pid, signal));
            signal(Signal::STOP);
            sleep(millis(random, 2000, 6000)).await;
            signal(Signal::CONT);
            Ok("broker".into())
        }
        TopicRecreated => {
            let topic = broker::TOPICS[random.random_range(0..broker::TOPICS.len())].as_str();
            let partitions = random.random_range(4..9);
            record.deletes(topic);
            match broker.recreate(topic, partitions).await {
                Ok(()) => Ok(format!("{topic}, now {partitions} partitions")),
                Err(why) => Err(Error::NotInjected(why)),
            }
        }
        Poison => {
            let (mut kinds, count) = (Vec::new(), random.random_range(2..6));
            let topics: Vec<_> = broker::poisonable().collect();
            for _ in 0..count {
                let topic = topics[random.random_range(0..topics.len())];
                let (kind, mark, bytes) = broker::poison(random.random_range(0..1_000_000));
                let produced = broker.produce(topic, &bytes).await;
                // A message that the broker did not acknowledge may still be there.
                record.poisoned(self::Poison { topic: topic.into(), mark, sure: produced.is_ok() });
                kinds.push(kind);
            }
            Ok(kinds.join(", "))
        }
        PostgresCut => {
            let at = pick(fleet, random, &anybody);
            let proxy = &fleet.members[at].proxy;
            proxy.refuse(true);
            let cut = proxy.cut(|| true);
            sleep(millis(random, 0, 3000)).await;
            proxy.refuse(false);
            Ok(format!("{}, {cut} connections", fleet.members[at].name))
        }
        PostgresSlow | PostgresHangs => {
            let at = pick(fleet, random, &anybody);
            let proxy = &fleet.members[at].proxy;
            match kind {
                PostgresSlow => proxy.slow(Duration::from_millis(50)),
                _ => proxy.hang(true),
            }
            sleep(millis(random, 2000, 4000)).await;
            proxy.heal();
            Ok(fleet.members[at].name.clone())
        }
        PostgresSilent => {
            let at = pick(fleet, random, &anybody);
            // The process recovers by itself, on other connections, long before these carry again.
            let connections = fleet.members[at].proxy.silence(SILENCE);
            sleep(millis(random, 0, 2000)).await;
            Ok(format!("{}, {connections} connections", fleet.members[at].name))
        }
        CommitAnswersLost | CommitsLost => {
            let at = pick(fleet, random, &anybody);
            let (proxy, around) =
                (&fleet.members[at].proxy, if kind == CommitsLost { Around::Before } else { Around::After });
            let before = proxy.lost_commits();
            proxy.lose_commits(random.random_range(1..8), around);
            sleep(Duration::from_millis(1500)).await;
            proxy.heal();
            Ok(format!("{}, {} of them", fleet.members[at].name, proxy.lost_commits() - before))
        }
        BrokerCut => {
            let mut cut = 0;
            for _ in 0..random.random_range(1..4) {
                cut += fleet.kafka_proxy.cut(|| random.random_bool(0.5));
                sleep(Duration::from_millis(500)).await;
            }
            Ok(format!("{cut} connections"))
        }
        BrokerSlow => {
            fleet.kafka_proxy.slow(Duration::from_millis(50));
            sleep(millis(random, 2000, 4000)).await;
            fleet.kafka_proxy.heal();
            Ok("everybody".into())
        }
        NodeCrashed | NodeAway | HomesMoved => {
            let pause = millis(random, 1000, 6000);
            let citus = fleet.deployment.server.citus();
            let citus = citus.ok_or_else(|| Error::NotInjected("one Postgres".into()))?;
            let nodes = citus.workers().await?;
            let victim = &nodes[random.random_range(0..nodes.len())];
            match kind {
                NodeCrashed => {
                    if !citus.crash(victim).await? {
                        return Err(Error::NotInjected("the backend goes on".into()));
                    }
                }
                NodeAway => {
                    citus.turn_away(victim).await?;
                    sleep(pause).await;
                    citus.let_in(victim).await?;
                }
                _ => {
                    let other = nodes.iter().find(|node| *node != victim);
                    let other = other.ok_or_else(|| Error::NotInjected("one node".into()))?;
                    for (from, to) in [(victim, other), (other, victim)] {
                        if !citus.move_home(from, to).await? {
                            return Err(Error::NotInjected(format!("{from} has no home")));
                        }
                        sleep(pause / 4).await;
                    }
                }
            }
            Ok(format!("node {victim}"))
        }
    }
}
