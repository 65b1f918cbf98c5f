//! An HTTPS server for tests: it takes every request, answers 204, and keeps the bodies.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::tls::Issued;

/// A server with this certificate. It ends when it is dropped.
#[derive(Debug)]
pub struct TlsHttp {
    /// Where it listens, on 127.0.0.1.
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl TlsHttp {
    /// Starts it.
    ///
    /// # Panics
    /// The certificate cannot be read, or there is no port.
    pub async fn start(issued: &Issued) -> Self {
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(&issued.certificate).expect("the certificate is there").collect();
        let key = PrivateKeyDer::from_pem_file(&issued.key).expect("its key is there");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("there are versions of TLS")
            .with_no_client_auth()
            .with_single_cert(chain.expect("the certificate is PEM"), key)
            .expect("the key is the certificate's");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a port");
        let address = listener.local_addr().expect("it has an address");
        let received: Arc<Mutex<Vec<String>>> = Arc::default();
        let (kept, acceptor) = (Arc::clone(&received), TlsAcceptor::from(Arc::new(config)));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, acceptor) = (Arc::clone(&kept), acceptor.clone());
                tokio::spawn(async move {
                    // A client that trusts another authority goes.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let Some(body) = body(&mut stream).await else { return };
                    kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(body);
                    let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                    let _ = stream.write_all(answer).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { address, received, serving }
    }

    /// Returns the bodies that it has received.
    pub fn received(&self) -> Vec<String> {
        self.received.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Drop for TlsHttp {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Reads a request with a `content-length`; returns its body.
async fn body(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.to_ascii_lowercase().split("content-length:").nth(1)?.lines().next()?.trim().parse();
            if body.len() >= length.ok()? {
                return Some(body.to_owned());
            }
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}
