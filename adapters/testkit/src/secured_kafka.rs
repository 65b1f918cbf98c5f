//! A real Apache Kafka of its own for one test, to which clients log in by a password.

use std::process::{Child, Command};

use tempfile::TempDir;

use crate::apache::{change_kafka_password, has_real_kafka, launch, script};

/// How Java names the login by SCRAM.
const SCRAM: &str = "org.apache.kafka.common.security.scram.ScramLoginModule required";
/// The user as whom the broker connects to itself, and passwords are changed.
const ADMIN: &str = "admin";

/// An Apache Kafka that takes logins by SCRAM-SHA-512 only. It ends when dropped, or with the test's process.
#[derive(Debug)]
pub struct SecuredKafka {
    /// The script; the broker ends when its standard input closes.
    script: Option<Child>,
    address: String,
    user: String,
    data: TempDir,
}

impl SecuredKafka {
    /// Starts it with this user, whose password is its name. `None` if there is no real one; prints a line that says why.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start(user: &str) -> Option<Self> {
        if !has_real_kafka().await {
            return None;
        }
        let data = tempfile::tempdir().expect("a directory can be made");
        let mut kafka = Self { script: None, address: String::new(), user: user.to_owned(), data };
        kafka.launch().await;
        Some(kafka)
    }

    /// Returns its address.
    pub fn bootstrap_servers(&self) -> &str {
        &self.address
    }

    /// Kills it (kill -9), which breaks all connections, and starts it at its address with its data.
    ///
    /// # Panics
    /// It does not start.
    pub async fn restart(&mut self) {
        self.kill();
        self.launch().await;
    }

    /// Changes its user's password. Open connections stay.
    ///
    /// # Panics
    /// The password is not changed.
    pub async fn change_password(&self, password: &str) {
        let client = [
            "security.protocol=SASL_PLAINTEXT".to_owned(),
            "sasl.mechanism=SCRAM-SHA-512".to_owned(),
            format!("sasl.jaas.config={SCRAM} username=\"{ADMIN}\" password=\"{ADMIN}\";"),
        ];
        change_kafka_password(&self.address, &client, &self.user, password).await;
    }

    async fn launch(&mut self) {
        let properties = [
            "sasl.enabled.mechanisms=SCRAM-SHA-512".to_owned(),
            "sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512".to_owned(),
            format!(
                "listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config={SCRAM} username=\"{ADMIN}\" password=\"{ADMIN}\";"
            ),
        ];
        let mut command = Command::new(script());
        command
            .env("KAFKA_DATA", self.data.path().join("kafka"))
            .env("KAFKA_PROPERTIES", properties.join("\n"));
        command.env("KAFKA_PROTOCOL", "SASL_PLAINTEXT").env("KAFKA_USERS", format!("{ADMIN} {}", self.user));
        if let Some((_, port)) = self.address.split_once(':') {
            command.env("KAFKA_PORT", port);
        }
        let launched = tokio::task::spawn_blocking(move || launch(&mut command)).await;
        let launched = launched.expect("launching it does not panic");
        let (script, address) = launched.unwrap_or_else(|error| panic!("scripts/real-kafka: {error}"));
        (self.script, self.address) = (Some(script), address);
    }

    fn kill(&mut self) {
        if let Some(mut script) = self.script.take() {
            drop(script.stdin.take());
            let _ = script.wait();
        }
    }
}

impl Drop for SecuredKafka {
    fn drop(&mut self) {
        self.kill();
    }
}
