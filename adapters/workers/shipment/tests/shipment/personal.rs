//! Addresses are personal: none is kept once its command is settled, and none is ever logged.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use amends_protocol::{Command, Outcome, wire};
use tracing_subscriber::filter::LevelFilter;

use crate::{
    transport::undo,
    world::{PERSONAL, World, ship},
};

/// All log lines, of every level and target.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Captures this thread's log until the guard is dropped.
    fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
        // What another thread meets first would otherwise be off for all, for the moment in which this one begins to listen.
        let everybodys = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(io::sink);
        let _ = tracing::subscriber::set_global_default(everybodys.finish());
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

fn assert_impersonal(what: &str, text: &str) {
    for personal in PERSONAL {
        assert!(!text.contains(personal), "{what} holds {personal}: {text}");
    }
}

#[tokio::test]
async fn an_address_is_kept_until_its_command_is_settled_and_no_longer() {
    let world = World::new().await;
    world.run("REVOKE INSERT ON carrier_bookings FROM amends_shipment").await;
    let waiting = ship("AT");
    world.topics.send(std::slice::from_ref(&waiting));
    world.topics.reply_where(&waiting, 0, |r| r.outcome == Outcome::Unknown).await;
    assert!(world.everything().await.contains(PERSONAL[0]), "it is needed for another call");
    world.run("GRANT INSERT ON carrier_bookings TO amends_shipment").await;
    world.topics.reply_where(&waiting, 1, |r| r.outcome == Outcome::Succeeded).await;

    let (booked, refused, cancelled, overtaken) = (ship("AT"), ship("AQ"), ship("AT"), ship("AT"));
    let nonsense = Command { step: "dance".into(), ..ship("AT") };
    for command in [
        &booked,
        &refused,
        &cancelled,
        &undo(&cancelled),
        &undo(&overtaken),
        &overtaken,
        &nonsense,
        &undo(&nonsense),
    ] {
        world.settled(command).await;
    }
    let everything = world.everything().await;
    assert!(
        everything.contains(&booked.command_id.to_string()) && everything.contains("TRK-"),
        "{everything}"
    );
    assert_impersonal("the database", &everything);
    let replies: Vec<String> =
        world.topics.replies().iter().map(|r| String::from_utf8(wire::write(r)).unwrap()).collect();
    assert_impersonal("a reply", &replies.concat());
}

#[tokio::test]
async fn no_address_is_logged_whatever_becomes_of_its_command() {
    let (log, _guard) = Log::begin();
    let world = World::new().await;
    let unreadable = Command { slot: 5000, ..ship("AT") };
    let wrong = Command { attempt: u32::MAX, ..ship("AT") };
    let cut = wire::write(&ship("AT")).split_at(300).0.to_vec();
    world.topics.send_bytes(vec![wire::write(&unreadable), wire::write(&wrong), cut]);
    let (booked, refused) = (ship("AT"), ship("AQ"));
    for command in [&booked, &refused, &undo(&booked)] {
        world.settled(command).await;
    }
    world.run("REVOKE INSERT ON carrier_bookings FROM amends_shipment").await;
    let silent = [ship("AT"), ship("BV")];
    world.topics.send(&silent);
    for command in &silent {
        world.topics.reply_where(command, 0, |r| r.outcome == Outcome::Unknown).await;
    }
    let log = log.text();
    assert!(log.contains("dead letter") && log.contains("the carrier's books"), "it was listened to: {log}");
    assert_impersonal("the log", &log);
}
