//! A running role: waited for, stopped, killed, started again.

use std::{
    io::Read,
    net::SocketAddr,
    process::{Child, Command, ExitStatus},
};

use amends_testkit::eventually;

use super::{LONG, Stack, client::Client};

/// A running role. It is killed when dropped.
pub struct Process {
    pub(super) child: Child,
    pub address: SocketAddr,
    pub role: String,
}

/// Returns clients of all apis.
pub fn clients<'a>(all: impl IntoIterator<Item = &'a Process>) -> Vec<Client> {
    all.into_iter().filter(|process| process.role == "api").map(Process::client).collect()
}

impl Process {
    /// Returns a client of its listener.
    pub fn client(&self) -> Client {
        Client::at(self.address)
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        let client = self.client();
        eventually(&format!("{} is ready", self.role), LONG, || {
            let client = client.clone();
            async move { (client.try_get("/health/ready").await?.0 == 200).then_some(()) }
        })
        .await;
    }

    /// Returns its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// kill -9, and a restart of the same role at the same address.
    pub fn kill_and_restart(&mut self, stack: &Stack) {
        self.kill();
        self.start_again(stack);
    }

    /// Starts the same role at the same address, without waiting for it.
    pub fn start_again(&mut self, stack: &Stack) {
        let role: Vec<&str> = self.role.split(' ').collect();
        let again = stack.spawn_at(&role, self.address);
        *self = again;
    }

    /// SIGTERM, and waits until it has ended.
    pub async fn stop(mut self) {
        let told = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.child.id())]).status();
        assert!(told.unwrap().success());
        let status = self.ended().await;
        assert!(status.success(), "{}: {status}", self.role);
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually(&format!("{} ends", self.role), LONG, || {
            let ended = child.try_wait().unwrap();
            async move { ended }
        })
        .await
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads all that a process says.
pub(super) fn whole(mut said: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    said.read_to_end(&mut bytes).unwrap();
    bytes
}
