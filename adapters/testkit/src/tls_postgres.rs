//! A real Postgres that takes encrypted connections only.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use amends_embedded::{Postgres, PostgresOptions};
use sqlx::{
    Connection, PgConnection,
    types::chrono::{DateTime, Utc},
};

use crate::{
    eventually,
    tls::{Authority, Issued},
};

/// How long the server may take to read its settings again.
const RELOAD_LONGEST: Duration = Duration::from_secs(90);

/// A Postgres of one test. Its superuser, too, is refused without encryption.
#[derive(Debug)]
pub struct TlsPostgres {
    server: Postgres,
    /// Where the server reads its certificate.
    directory: PathBuf,
    password_url: String,
}

impl TlsPostgres {
    /// Starts it with a certificate. It checks the certificates of clients against the authority.
    ///
    /// # Panics
    /// There is no Postgres on this machine, or it does not start.
    pub async fn start(data: &Path, issued: &Issued, authority: &Authority) -> Self {
        // The first start makes the cluster, in a directory of the server's user.
        let first = Postgres::start(PostgresOptions::new(data)).await.expect("it starts");
        let directory = first.directory().to_owned();
        first.stop().await;
        present(&directory, issued);
        keep(authority.file(), &directory, "clients.pem");
        let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
        let settings = [
            ("ssl".to_owned(), "on".to_owned()),
            ("ssl_cert_file".to_owned(), path("server.crt")),
            ("ssl_key_file".to_owned(), path("server.key")),
            ("ssl_ca_file".to_owned(), path("clients.pem")),
        ];
        let options = PostgresOptions { settings: settings.to_vec(), ..PostgresOptions::new(data) };
        let server = Postgres::start(options).await.expect("it starts with a certificate");
        let password_url = server.url("postgres");
        let tls = Self { server, directory, password_url };
        tls.take_from("hostssl all all 127.0.0.1/32 scram-sha-256", "disable").await;
        tls
    }

    /// Takes connections only from clients that have a certificate of the authority too.
    pub async fn require_client_certificates(&self) {
        self.take_from("hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca", "require").await;
    }

    async fn take_from(&self, rule: &str, mode: &str) {
        let rules = self.directory.join("cluster").join("pg_hba.conf");
        let mut superuser = self.superuser(mode).await;
        fs::write(rules, format!("{rule}\n")).expect("its rules can be written");
        self.reload(&mut superuser).await;
    }

    /// Has the server read its settings and its certificate again; waits until it has.
    async fn reload(&self, superuser: &mut PgConnection) {
        let read_at = "SELECT pg_conf_load_time()";
        let before: DateTime<Utc> =
            sqlx::query_scalar(read_at).fetch_one(&mut *superuser).await.expect("it answers its superuser");
        sqlx::raw_sql("SELECT pg_reload_conf()").execute(superuser).await.expect("it can be told to");
        // The server does so a moment later. Its new sessions begin with what it has read; if its new rules refuse them, it
        // has read those.
        eventually("the server has read its settings again", RELOAD_LONGEST, || async {
            let url = self.url("postgres", "sslmode=require");
            let Ok(mut session) = PgConnection::connect(&url).await else { return Some(()) };
            let now: DateTime<Utc> = sqlx::query_scalar(read_at).fetch_one(&mut session).await.ok()?;
            (now > before).then_some(())
        })
        .await;
    }

    /// Presents another certificate from now on.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn present(&self, issued: &Issued) {
        let mut superuser = self.superuser("require").await;
        present(&self.directory, issued);
        self.reload(&mut superuser).await;
    }

    async fn superuser(&self, mode: &str) -> PgConnection {
        let url = self.url("postgres", &format!("sslmode={mode}"));
        PgConnection::connect(&url).await.expect("it answers its superuser")
    }

    /// Returns the superuser's URL of a database, with these parameters.
    pub fn url(&self, database: &str, parameters: &str) -> String {
        let server = self.password_url.split_once("/postgres?").expect("the URL of this database").0;
        format!("{server}/{database}?{parameters}")
    }

    /// Returns the parameters of a client that checks the server's certificate against an authority.
    pub fn verified_by(authority: &Authority) -> String {
        format!("sslmode=verify-full&sslrootcert={}", authority.file().display())
    }

    /// Ends all sessions of clients.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn end_sessions(&self) {
        let mut superuser = self.superuser("require").await;
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
        sqlx::raw_sql(sql).execute(&mut superuser).await.expect("sessions can be ended");
    }

    /// Shuts it down in order.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

fn present(directory: &Path, issued: &Issued) {
    keep(&issued.certificate, directory, "server.crt");
    keep(&issued.key, directory, "server.key");
}

/// Copies a file into the directory, for its owner alone: the server refuses a key that others can read.
fn keep(file: &Path, directory: &Path, name: &str) {
    let owner = fs::metadata(directory).expect("the directory is there");
    let (draft, path) = (directory.join(format!("{name}.new")), directory.join(name));
    fs::copy(file, &draft).expect("it can be copied");
    fs::set_permissions(&draft, Permissions::from_mode(0o600)).expect("its rights can be set");
    chown(&draft, Some(owner.uid()), Some(owner.gid())).expect("its owner can be set");
    fs::rename(draft, path).expect("it can be renamed");
}
