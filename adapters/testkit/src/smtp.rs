//! A real mail server (aiosmtpd) for one test, which says what it has received and answers as the test says.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::tls::Issued;

/// The server's program.
const SERVER: &str = include_str!("smtp_server.py");
/// How long it may take to start, and to take an order.
const ANSWER_LONGEST: Duration = Duration::from_secs(90);

/// How connections to a server are secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpSecurity {
    /// Not at all.
    Plain,
    /// After STARTTLS, without which it takes no mail.
    StartTls,
    /// From the beginning.
    Tls,
}

/// A mail server. It ends when dropped, or with the test's process.
#[derive(Debug)]
pub struct SmtpServer {
    child: Child,
    port: u16,
    security: SmtpSecurity,
    orders: Mutex<Orders>,
    messages: Arc<Mutex<Vec<Value>>>,
    certificate: PathBuf,
    /// Of a certificate that is the server's own.
    _directory: Option<TempDir>,
}

/// The instruction for its answer, and whether it has taken it.
#[derive(Debug)]
struct Orders {
    stdin: ChildStdin,
    taken: Receiver<()>,
}

impl SmtpServer {
    /// Starts it with a certificate that it has signed itself; with a login it takes mail only after that.
    ///
    /// # Panics
    /// There is no aiosmtpd on this machine, or it does not start.
    pub fn start(security: SmtpSecurity, login: Option<(&str, &str)>) -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let files = certificate(directory.path());
        Self::start_with(security, login, files, Some(directory))
    }

    /// Starts it with another's certificate.
    ///
    /// # Panics
    /// As [`SmtpServer::start`].
    pub fn presenting(security: SmtpSecurity, login: Option<(&str, &str)>, issued: &Issued) -> Self {
        Self::start_with(security, login, (issued.certificate.clone(), issued.key.clone()), None)
    }

    fn start_with(
        security: SmtpSecurity,
        login: Option<(&str, &str)>,
        files: (PathBuf, PathBuf),
        directory: Option<TempDir>,
    ) -> Self {
        let security_name = match security {
            SmtpSecurity::Plain => "plain",
            SmtpSecurity::StartTls => "starttls",
            SmtpSecurity::Tls => "tls",
        };
        let login = login.map(|(user, password)| json!([user, password]));
        let options =
            json!({ "security": security_name, "login": login, "certificate": files.0, "key": files.1 });
        let mut command = Command::new(python());
        command.args(["-c", SERVER, &options.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("Python starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (ports, port) = channel();
        let (takes, taken) = channel();
        let messages = Arc::<Mutex<Vec<Value>>>::default();
        let received = Arc::clone(&messages);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let said: Value = serde_json::from_str(&line).expect("it says JSON");
                if let Some(port) = said["port"].as_u64() {
                    ports.send(port).ok();
                } else if said["set"] == true {
                    takes.send(()).ok();
                } else {
                    received.lock().expect("nobody panics with it").push(said);
                }
            }
        });
        let port = port.recv_timeout(ANSWER_LONGEST).expect("the mail server starts");
        let port = u16::try_from(port).expect("a port");
        let orders = Mutex::new(Orders { stdin: child.stdin.take().expect("it is piped"), taken });
        Self { child, port, security, orders, messages, certificate: files.0, _directory: directory }
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        match self.security {
            SmtpSecurity::Plain => format!("smtp://127.0.0.1:{}", self.port),
            SmtpSecurity::StartTls => format!("smtp://127.0.0.1:{}?tls=required", self.port),
            SmtpSecurity::Tls => format!("smtps://127.0.0.1:{}", self.port),
        }
    }

    /// Returns the file with its certificate.
    pub fn certificate(&self) -> PathBuf {
        self.certificate.clone()
    }

    /// Makes it answer a command (`rcpt`, or `data`, once it has the message) with a reply (`550 no`), or `hang`, or
    /// `close`. `None`: as usual.
    ///
    /// # Panics
    /// It does not take the order.
    pub fn answers(&self, command: &str, answer: Option<&str>) {
        self.order(&json!({ command: answer }));
    }

    /// Requires another login from the next connection on. It is for a server that was started with one.
    ///
    /// # Panics
    /// It does not take the order.
    pub fn requires(&self, user: &str, password: &str) {
        self.order(&json!({ "login": [user, password] }));
    }

    /// Returns all messages that it has received until now, whatever it answered: `from`, `to`, `tls`, `login`,
    /// `content`.
    ///
    /// # Panics
    /// It no longer runs.
    pub fn messages(&self) -> Vec<Value> {
        // It says each message before it answers the sender, but on a pipe: what it says to this order comes after them.
        self.order(&json!({}));
        self.messages.lock().expect("nobody panics with it").clone()
    }

    /// Sends it an order, and waits until it and all that it said before are read.
    fn order(&self, order: &Value) {
        let mut orders = self.orders.lock().expect("nobody panics with it");
        writeln!(orders.stdin, "{order}").expect("it reads");
        orders.taken.recv_timeout(ANSWER_LONGEST).expect("it takes the order");
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a certificate of 127.0.0.1 and its key; returns both files.
fn certificate(directory: &Path) -> (PathBuf, PathBuf) {
    let made =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate can be made");
    let files = (directory.join("certificate.pem"), directory.join("key.pem"));
    std::fs::write(&files.0, made.cert.pem()).expect("it can be written");
    std::fs::write(&files.1, made.signing_key.serialize_pem()).expect("it can be written");
    files
}

/// Returns the Python that has aiosmtpd: Debian's, or another one on PATH.
fn python() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|directory| directory.join("python3"));
    let has_it = |python: &PathBuf| {
        let mut asked = Command::new(python);
        asked.args(["-c", "import aiosmtpd"]).stdout(Stdio::null()).stderr(Stdio::null());
        asked.status().is_ok_and(|status| status.success())
    };
    let found = [PathBuf::from("/usr/bin/python3")].into_iter().chain(on_path).find(has_it);
    found.expect("aiosmtpd is needed for this test: run scripts/bootstrap")
}
