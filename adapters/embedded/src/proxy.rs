//! A TCP proxy in front of the mock cluster, whose own address cannot be chosen.
//!
//! It keeps its address while the broker behind it is replaced, and can close all connections.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    thread,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

const COPY_BUFFER: usize = 64 * 1024;

/// The proxy; it ends with all its connections when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    target: watch::Sender<Option<SocketAddr>>,
}

impl Proxy {
    /// Listens on 127.0.0.1 at this port, or at a free one; forwards nothing yet.
    pub(crate) fn listen(port: u16) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (target, targets) = watch::channel(None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        // A runtime of its own: the caller's may belong to one test, and the broker serves all of them.
        thread::Builder::new()
            .name("broker-proxy".into())
            .spawn(move || runtime.block_on(serve(listener, targets)))?;
        Ok(Self { port, target })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Closes all connections; new ones are forwarded to this address, or refused.
    pub(crate) fn forward_to(&self, target: Option<SocketAddr>) {
        self.target.send_replace(target);
    }
}

async fn serve(listener: std::net::TcpListener, mut targets: watch::Receiver<Option<SocketAddr>>) {
    let listener = TcpListener::from_std(listener).expect("a listener that does not block fits the runtime");
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                tokio::spawn(forward(client, targets.clone()));
            },
            changed = targets.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

async fn forward(mut client: TcpStream, mut targets: watch::Receiver<Option<SocketAddr>>) -> io::Result<()> {
    let target = *targets.borrow_and_update();
    let Some(target) = target else { return Ok(()) };
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::select! {
        end = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, COPY_BUFFER, COPY_BUFFER) => end.map(drop),
        _ = targets.changed() => Ok(()),
    }
}
