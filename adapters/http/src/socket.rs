//! A connection's bytes: their arrival is recorded, a client that reads none is given up, and what hyper answers by itself
//! becomes a problem.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

use crate::{
    ProblemDetails, ProblemType,
    connections::Connection,
    problem_types::{HEADERS_TOO_LARGE, INVALID_REQUEST, URI_TOO_LONG},
};

/// How hyper begins its own answers to a head that it cannot read, and the problems in their place. No answer of a route
/// looks like these: they have no body.
const REFUSALS: [(&[u8], &ProblemType, &str); 3] = [
    (
        b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n",
        INVALID_REQUEST,
        "The head of the request is not HTTP/1.1.",
    ),
    (
        b"HTTP/1.1 414 URI Too Long\r\nconnection: close\r\ncontent-length: 0\r\n",
        URI_TOO_LONG,
        "At most 65,534 bytes of path and query are read.",
    ),
    (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n",
        HEADERS_TOO_LARGE,
        "At most 100 headers of 64 KiB together are read.",
    ),
];

/// Returns the whole answer to send in place of one of hyper's own.
fn in_place_of(answer: &[u8]) -> Option<Bytes> {
    let (_, kind, detail) = REFUSALS.into_iter().find(|(beginning, ..)| answer.starts_with(beginning))?;
    Some(ProblemDetails::new(kind, detail).to_last_response().into())
}

pub(crate) struct Socket {
    stream: TcpStream,
    connection: Arc<Connection>,
    write_timeout: Duration,
    /// Runs while the client reads nothing of what is to be sent.
    stalled: Option<Pin<Box<Sleep>>>,
    /// What is left to send of a problem in place of hyper's own answer.
    refusal: Option<Bytes>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, connection: Arc<Connection>, write_timeout: Duration) -> Self {
        Self { stream, connection, write_timeout, stalled: None, refusal: None }
    }

    /// Sends a problem in place of an answer of hyper's own, and says that the answer is written; `None` if these bytes are
    /// something else.
    fn replaced(&mut self, cx: &mut Context<'_>, answer: &[u8]) -> Option<Poll<io::Result<usize>>> {
        let mut rest = self.refusal.take().or_else(|| in_place_of(answer))?;
        while !rest.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(cx, &rest);
            match self.bounded(cx, written) {
                Poll::Ready(Ok(length @ 1..)) => rest.advance(length),
                unfinished => {
                    self.refusal = Some(rest);
                    return Some(unfinished);
                }
            }
        }
        Some(Poll::Ready(Ok(answer.len())))
    }

    fn bounded(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let longest = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(longest)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.connection.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(replaced) = self.replaced(cx, bytes) {
            return replaced;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bounded(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(replaced) = bytes.first().and_then(|first| self.replaced(cx, first)) {
            return replaced;
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.bounded(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_of_hypers_own_is_replaced_and_each_by_its_problem() {
        for (status, reason, slug) in [
            (400, "Bad Request", "invalid-request"),
            (414, "URI Too Long", "uri-too-long"),
            (431, "Request Header Fields Too Large", "headers-too-large"),
        ] {
            let own = format!(
                "HTTP/1.1 {status} {reason}\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n"
            );
            let sent = in_place_of(own.as_bytes()).unwrap();
            let sent = String::from_utf8(sent.to_vec()).unwrap();
            assert!(sent.starts_with(&format!("HTTP/1.1 {status} {reason}\r\n")), "{sent}");
            assert!(sent.contains(&format!("/problems/{slug}\"")), "{sent}");
            let with_body = own.replace("content-length: 0", "content-length: 7");
            assert_eq!(in_place_of(with_body.as_bytes()), None);
        }
        assert_eq!(in_place_of(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"), None);
    }
}
