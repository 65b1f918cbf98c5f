//! Carries bytes unchanged.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::Control;

/// Carries both directions until one end closes.
pub(super) async fn carry(client: TcpStream, server: TcpStream, control: &Control) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = copy(from_client, to_server, control) => {}
        () = copy(from_server, to_client, control) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, control: &Control) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        control.hold_up().await;
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
