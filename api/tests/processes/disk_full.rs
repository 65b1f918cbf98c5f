//! The disk under Postgres is full: what cannot be kept is not accepted, and once there is room everything goes on.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use amends_testkit::eventually;
use tempfile::TempDir;

use crate::{
    books,
    support::{Broker, LONG, Stack, client::order, load},
};

/// Size of the file system: for a cluster with five databases, and little more.
const SIZE: &str = "size=400m";

/// A small file system of its own, which is taken away at the end.
struct Small {
    directory: TempDir,
}

impl Small {
    /// `None` where this process may not mount one; prints a line that says so.
    fn mounted() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(directory.path()).output();
        let refused = match mount {
            Ok(output) if output.status.success() => return Some(Self { directory }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        println!("full disk left out: no file system can be mounted here: {refused}");
        None
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Takes all the room that there is; returns the file that has it.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut filler = fs::File::create(&path).unwrap();
        let mut size = 1024 * 1024;
        while size > 0 {
            // The last bytes are taken in smaller and smaller pieces.
            if filler.write_all(&vec![0; size]).is_err() {
                size /= 2;
            }
        }
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_turns_orders_away_loses_none_and_is_over_once_there_is_room() {
    let Some(disk) = Small::mounted() else { return };
    let stack = Stack::on_own_server(Broker::embedded(), &disk.path().join("data")).await;
    let all = stack.start_all().await;
    load::stock(&stack).await;
    let api = all.iter().find(|process| process.role == "api").unwrap();
    let client = api.client();
    let mug = order("mug", 1, "card_approved", "AT");
    let mut accepted = vec![client.place(&mug).await];

    let filler = disk.fill();
    // Pages that have room are filled first.
    loop {
        match client.try_place(&mug, None).await {
            Some(answer) if answer.status == 201 => {
                accepted.push(answer.body["id"].as_str().unwrap().to_owned());
            }
            Some(answer) => {
                assert_eq!(answer.status, 503, "{}", answer.body);
                break;
            }
            None => panic!("a request got no answer"),
        }
    }
    eventually("the api is not ready", LONG, || async {
        let (status, body) = client.try_get("/health/ready").await?;
        (status == 503 && body["checks"]["database"] != "up").then_some(())
    })
    .await;

    fs::remove_file(filler).unwrap();
    for process in &all {
        process.ready().await;
    }
    let after = eventually("an order is accepted", LONG, || async {
        let answer = client.try_place(&mug, None).await?;
        (answer.status == 201).then(|| answer.body["id"].as_str().unwrap().to_owned())
    })
    .await;
    accepted.push(after);
    for id in &accepted {
        client.becomes(id, "FULFILLED").await;
    }
    books::settle(&stack).await;
    books::balance(&stack).await;
    drop(stack);
}
