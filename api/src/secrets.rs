//! Passwords in files that change while a role runs: the files are read again from time to time.

use std::time::Duration;

use amends_kafka::Credentials;
use amends_notification::channels::email::SmtpLogin;
use amends_redis::Redis;
use secrecy::{ExposeSecret, SecretString};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    links::Pools,
    settings::{SecretFile, Settings, secret_in},
};

/// Interval between looks at the files of secrets.
const SECRETS_LOOK: Duration = Duration::from_secs(5);

/// A file of a secret, and who uses its content.
#[derive(Debug)]
pub struct FollowedFile {
    /// The setting of the secret.
    pub setting: String,
    /// The file, with the content in use.
    pub file: SecretFile,
    /// Who takes a changed content.
    pub follower: Follower,
}

/// Who takes a changed secret. Each uses it for new connections; open ones stay.
#[derive(Debug, Clone)]
pub enum Follower {
    /// A database's URL.
    Databases(Pools),
    /// The password of Kafka's clients, who log in as this user.
    Kafka(Credentials, String),
    /// The URL of Redis.
    Redis(Redis),
    /// The password of the mail server.
    Mail(SmtpLogin),
}

impl Follower {
    /// Takes a changed secret.
    ///
    /// # Errors
    /// What it is not. It is not repeated: it may be a part of a password.
    async fn take(&self, old: &str, new: &str) -> Result<(), &'static str> {
        match self {
            Self::Databases(pools) => pools.follow(old, new).map_err(|_| "no URL of Postgres"),
            Self::Kafka(credentials, user) => {
                let (credentials, user, password) = (credentials.clone(), user.clone(), new.to_owned());
                let changing = spawn_blocking(move || credentials.change(&user, &password));
                // Only a runtime that shuts down cancels it.
                changing.await.unwrap_or(Ok(())).map_err(|_| "no text without NUL")
            }
            Self::Redis(redis) => redis.follow(new).await.map_err(|_| "no URL of Redis"),
            Self::Mail(login) => {
                login.change_password(new);
                Ok(())
            }
        }
    }
}

/// Returns the files that every role follows.
pub fn of_links(
    settings: &Settings,
    pools: &Pools,
    kafka: &Credentials,
    redis: Option<&Redis>,
) -> Vec<FollowedFile> {
    let follower = |setting: &str| match setting {
        "kafka_sasl_password" if settings.gives_kafka_password() => {
            Some(Follower::Kafka(kafka.clone(), settings.kafka_sasl_user.clone()?))
        }
        "redis_url" => redis.cloned().map(Follower::Redis),
        url if url.ends_with("_database_url") => Some(Follower::Databases(pools.clone())),
        // A service token and a webhook key are the same in several processes, which would not change together.
        _ => None,
    };
    let followed = |(setting, file): (&String, &SecretFile)| {
        Some(FollowedFile { setting: setting.clone(), file: file.clone(), follower: follower(setting)? })
    };
    settings.secret_files.iter().filter_map(followed).collect()
}

/// Follows these files until the process stops.
pub async fn follow(mut files: Vec<FollowedFile>, stop: CancellationToken) {
    if files.is_empty() {
        return stop.cancelled().await;
    }
    loop {
        tokio::select! {
            () = sleep(SECRETS_LOOK) => {}
            () = stop.cancelled() => return,
        }
        for followed in &mut files {
            followed.look().await;
        }
    }
}

impl FollowedFile {
    /// Reads the file, and passes a changed content on.
    async fn look(&mut self) {
        let Self { setting, file, follower } = self;
        let new = match secret_in(&file.path) {
            Ok(new) if new == file.content.expose_secret() => return,
            Ok(new) => new,
            // The file may be only partly written.
            Err(why) => {
                return tracing::warn!(
                    setting,
                    why,
                    "the file of a secret cannot be read; the secret stays as it was"
                );
            }
        };
        match follower.take(file.content.expose_secret(), &new).await {
            Ok(()) => {
                tracing::info!(setting, "the file of a secret has changed; new connections use it");
                file.content = SecretString::from(new);
            }
            Err(is) => tracing::warn!(
                setting,
                is,
                "the file of a secret has changed to something that cannot be used; the secret stays as it was"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn settings(flags: &[(&str, &str)]) -> Settings {
        let flags: Vec<_> = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::read(&crate::services::names(), None, &flags).unwrap()
    }

    #[test]
    fn the_files_of_passwords_are_followed_and_those_of_what_several_processes_share_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = directory.path().join(name);
            fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (token, url) = (file("token", "0123456789abcdef"), file("url", "postgres://u:p@h/d"));
        let (password, redis_url) = (file("password", "p"), file("redis", "redis://h"));
        let all = [
            ("service_token_file", token.as_str()),
            ("payment_database_url_file", &url),
            ("kafka_sasl_user", "u"),
            ("kafka_sasl_password_file", &password),
            ("redis_url_file", &redis_url),
        ];
        let followed = |flags: &[(&str, &str)]| {
            let (pools, kafka, redis) =
                (Pools::default(), Credentials::default(), Redis::new("redis://h").unwrap());
            let files = of_links(&settings(flags), &pools, &kafka, Some(&redis));
            files.into_iter().map(|file| file.setting).collect::<Vec<_>>()
        };
        assert_eq!(followed(&all), ["kafka_sasl_password", "payment_database_url", "redis_url"]);
        // Another property decides.
        let own = [&all[2..4], &[("rdkafka.sasl.password", "own")]].concat();
        assert_eq!(followed(&own), [""; 0]);
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_ignored_and_what_comes_after_it_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("url");
        let redis = Redis::new("redis://first").unwrap();
        let content = SecretString::from("redis://first");
        let mut followed = FollowedFile {
            setting: "redis_url".to_owned(),
            file: SecretFile { path: path.clone(), content },
            follower: Follower::Redis(redis),
        };
        // First the file is missing.
        for (text, used) in [
            (None, "redis://first"),
            (Some(""), "redis://first"),
            (Some("no url"), "redis://first"),
            (Some("redis://second\n"), "redis://second"),
        ] {
            if let Some(text) = text {
                fs::write(&path, text).unwrap();
            }
            followed.look().await;
            assert_eq!(followed.file.content.expose_secret(), used, "{text:?}");
        }
    }
}
