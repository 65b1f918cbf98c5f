//! Ended sagas as the benchmark's engine reports them over a socket: ids of sixteen bytes, one after the other.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use anyhow::Result;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

use crate::load::ledger::Ledger;

/// Listens for engines for as long as the program runs; returns the address.
pub async fn listen(ledger: Arc<Ledger>) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((engine, _)) = listener.accept().await {
            tokio::spawn(read_reports(engine, Arc::clone(&ledger)));
        }
    });
    Ok(address)
}

async fn read_reports(mut engine: TcpStream, ledger: Arc<Ledger>) {
    let (mut buffer, mut held) = (vec![0; 64 * 1024], 0);
    while let Ok(read) = engine.read(&mut buffer[held..]).await {
        if read == 0 {
            return;
        }
        let (now, filled) = (Instant::now(), held + read);
        let whole = filled - filled % 16;
        ledger.end(buffer[..whole].chunks_exact(16).filter_map(|id| Uuid::from_slice(id).ok()), now);
        buffer.copy_within(whole..filled, 0);
        held = filled - whole;
    }
}
