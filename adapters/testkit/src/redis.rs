//! A real Redis for one test, which the test can kill.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::tls::Issued;

/// Runs the server, and kills it once standard input closes: it does not outlive a test process that is killed.
const KEEPER: &str = r#"program="$1"; shift
( exec -a redis-server "$program" "$@" ) >/dev/null 2>&1 & server=$!
read -r _; kill -9 "$server" 2>/dev/null"#;
/// How long it may take to start.
const START_LONGEST: Duration = Duration::from_secs(90);

/// A Redis on an address of its own, in memory only.
#[derive(Debug)]
pub struct RedisServer {
    address: SocketAddr,
    /// Its certificate, if it takes encrypted connections only.
    tls: Option<Issued>,
    /// What it requires of new connections.
    password: Option<String>,
    keeper: Option<Child>,
}

impl RedisServer {
    /// Starts it.
    ///
    /// # Panics
    /// There is no Redis on this machine, or it does not start.
    pub fn start() -> Self {
        Self::start_as(None)
    }

    /// Starts one that takes encrypted connections only.
    ///
    /// # Panics
    /// As [`RedisServer::start`].
    pub fn start_with_tls(issued: Issued) -> Self {
        Self::start_as(Some(issued))
    }

    fn start_as(tls: Option<Issued>) -> Self {
        // Not one that the system gives to outgoing connections: it must be free again after each kill.
        let port = amends_embedded::free_port().expect("a port is free");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Self { address, tls, password: None, keeper: None };
        server.restart();
        server
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://{}", self.address)
    }

    /// Returns the URL of a client that logs in by a password.
    pub fn url_with(&self, password: &str) -> String {
        self.url().replace("://", &format!("://:{password}@"))
    }

    /// Requires a password of new connections from now on. Open ones stay. Of a server that takes plain connections.
    ///
    /// # Panics
    /// It does not do so.
    pub fn require_password(&mut self, password: &str) {
        self.command(&format!("CONFIG SET requirepass {password}"));
        self.password = Some(password.to_owned());
    }

    /// Ends all open connections. Of a server that takes plain connections.
    ///
    /// # Panics
    /// It does not do so.
    pub fn end_connections(&self) {
        self.command("CLIENT KILL TYPE normal SKIPME yes");
    }

    /// Gives it a command.
    fn command(&self, command: &str) {
        let mut stream = TcpStream::connect(self.address).expect("it runs");
        let mut answers = BufReader::new(stream.try_clone().expect("it can be cloned")).lines();
        let login = self.password.as_ref().map(|password| format!("AUTH {password}"));
        for line in login.iter().map(String::as_str).chain([command]) {
            stream.write_all(format!("{line}\r\n").as_bytes()).expect("it reads");
            let answer = answers.next().expect("it answers").expect("it answers");
            assert!(!answer.starts_with('-'), "{answer}");
        }
    }

    /// Presents another certificate from the next start on.
    pub fn present(&mut self, issued: Issued) {
        self.tls = Some(issued);
    }

    /// Kills it at once (kill -9), and returns when it has ended.
    pub fn kill(&mut self) {
        let Some(mut keeper) = self.keeper.take() else { return };
        drop(keeper.stdin.take());
        keeper.wait().expect("its keeper ends");
        while TcpStream::connect(self.address).is_ok() {
            sleep(Duration::from_millis(5));
        }
    }

    /// Starts it at its old address, empty.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart(&mut self) {
        self.kill();
        let mut command = Command::new("bash");
        command.args(["-c", KEEPER, "keeper"]).arg(program());
        let port = self.address.port().to_string();
        match &self.tls {
            None => command.args(["--port", &port]),
            Some(issued) => {
                command.args(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"]);
                command.arg("--tls-cert-file").arg(&issued.certificate);
                // Redis insists on authorities of clients, though it asks for no certificate.
                command.arg("--tls-ca-cert-file").arg(&issued.certificate);
                command.arg("--tls-key-file").arg(&issued.key)
            }
        };
        if let Some(password) = &self.password {
            command.args(["--requirepass", password]);
        }
        command.args(["--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no"]);
        let started = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        self.keeper = Some(started.expect("bash starts"));
        let began = Instant::now();
        while !self.answers() {
            assert!(began.elapsed() < START_LONGEST, "redis-server does not answer on {}", self.address);
            sleep(Duration::from_millis(5));
        }
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address) else { return false };
        if self.tls.is_some() {
            return true;
        }
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let mut answer = [0; 5];
        let asked = stream.write_all(b"PING\r\n").and_then(|()| stream.read_exact(&mut answer));
        asked.is_ok() && (&answer == b"+PONG" || &answer == b"-NOAU")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the program. Debian's `redis-tools` contains it under another name, without a service of the system: it is one
/// program that acts by the name it is called with.
fn program() -> PathBuf {
    let named = |name: &str| {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).map(|directory| directory.join(name)).find(|file| Path::is_file(file))
    };
    let found = named("redis-server").or_else(|| named("redis-check-rdb"));
    found.expect("Redis is needed for this test: run scripts/bootstrap")
}
