//! A connection that breaks at the worst moment.

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

/// Stands between the program and Postgres.
pub struct Proxy {
    pub url: String,
    cut: watch::Sender<()>,
}

struct Plan {
    marker: &'static str,
    lose_the_answer: bool,
    done: AtomicBool,
}

/// Once something with this in it has been sent, the connection breaks before its answer arrives, once.
pub async fn losing_the_answer_to(marker: &'static str, url: &str) -> Proxy {
    proxy(Plan { marker, lose_the_answer: true, done: AtomicBool::new(false) }, url).await
}

/// Breaks its connections only when told.
pub async fn faithful(url: &str) -> Proxy {
    proxy(Plan { marker: "", lose_the_answer: false, done: AtomicBool::new(true) }, url).await
}

async fn proxy(plan: Plan, url: &str) -> Proxy {
    let options = PgConnectOptions::from_str(url).unwrap();
    let server = (options.get_host().to_owned(), options.get_port());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = options.host("127.0.0.1").port(port).to_url_lossy().to_string();
    let (cut, when_cut) = watch::channel(());
    let plan = Arc::new(plan);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(server.clone()).await.unwrap();
            tokio::spawn(connection(client, server, plan.clone(), when_cut.clone()));
        }
    });
    Proxy { url, cut }
}

impl Proxy {
    /// Breaks the connections that there are now.
    pub fn cut(&self) {
        self.cut.send(()).unwrap();
    }
}

async fn connection(
    mut client: TcpStream,
    mut server: TcpStream,
    plan: Arc<Plan>,
    mut cut: watch::Receiver<()>,
) {
    cut.mark_unchanged();
    let (mut asked, mut answered) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut awaited = false;
    loop {
        tokio::select! {
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
            _ = cut.changed() => return,
        }
    }
}
