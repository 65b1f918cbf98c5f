//! A proxy in front of Postgres that breaks connections, or silences them, at the worst moment, or leads to another server.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Stands between a program and Postgres. When it is dropped, silenced connections end.
#[derive(Debug)]
pub struct Proxy {
    /// Its connection string, with the user and the database of the server behind it.
    pub url: String,
    strike: watch::Sender<Strike>,
    server: watch::Sender<Address>,
}

/// Host and port of a server.
type Address = (String, u16);

/// What happens to the existing connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strike {
    Cut,
    Silence,
}

struct Plan {
    marker: &'static str,
    lose_the_answer: bool,
    done: AtomicBool,
}

/// Creates a proxy that breaks a connection once: after a message that contains the marker, before its answer arrives.
pub async fn losing_the_answer_to(marker: &'static str, url: &str) -> Proxy {
    proxy(Plan { marker, lose_the_answer: true, done: AtomicBool::new(false) }, url).await
}

/// Creates a proxy that breaks connections only on request.
pub async fn faithful(url: &str) -> Proxy {
    proxy(Plan { marker: "", lose_the_answer: false, done: AtomicBool::new(true) }, url).await
}

async fn proxy(plan: Plan, url: &str) -> Proxy {
    let options = PgConnectOptions::from_str(url).expect("a URL");
    let (server, behind) = watch::channel(address(&options));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it listens").port();
    let url = options.host("127.0.0.1").port(port).to_url_lossy().to_string();
    let (strike, struck) = watch::channel(Strike::Cut);
    let plan = Arc::new(plan);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = behind.borrow().clone();
            let Ok(server) = TcpStream::connect(server).await else { continue };
            tokio::spawn(connection(client, server, plan.clone(), struck.clone()));
        }
    });
    Proxy { url, strike, server }
}

fn address(options: &PgConnectOptions) -> Address {
    (options.get_host().to_owned(), options.get_port())
}

impl Proxy {
    /// From now on the server with this URL is behind it, for new connections.
    pub fn leads_to(&self, url: &str) {
        self.server.send_replace(address(&PgConnectOptions::from_str(url).expect("a URL")));
    }

    /// Breaks the existing connections.
    pub fn cut(&self) {
        self.strike.send_replace(Strike::Cut);
    }

    /// From now on nothing passes on the existing connections, in either direction, and neither side gets a FIN or RST.
    /// New connections work.
    pub fn silence(&self) {
        self.strike.send_replace(Strike::Silence);
    }
}

async fn connection(
    mut client: TcpStream,
    mut server: TcpStream,
    plan: Arc<Plan>,
    mut struck: watch::Receiver<Strike>,
) {
    struck.mark_unchanged();
    let (mut asked, mut answered) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut awaited = false;
    loop {
        tokio::select! {
            biased;
            changed = struck.changed() => {
                if changed.is_ok() && *struck.borrow_and_update() == Strike::Silence {
                    // Both ends stay open until the proxy ends.
                    while struck.changed().await.is_ok() {}
                }
                return;
            }
            read = client.read(&mut asked) => match read {
                Ok(n) if n > 0 => {
                    let sent = &asked[..n];
                    awaited |= plan.lose_the_answer
                        && sent.windows(plan.marker.len()).any(|window| window == plan.marker.as_bytes())
                        && !plan.done.swap(true, Ordering::SeqCst);
                    if server.write_all(sent).await.is_err() { return }
                }
                _ => return,
            },
            read = server.read(&mut answered) => match read {
                Ok(n) if n > 0 && !awaited => if client.write_all(&answered[..n]).await.is_err() { return },
                _ => return,
            },
        }
    }
}
