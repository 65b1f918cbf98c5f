//! Postgres' protocol, as far as needed to see where a write is committed: at the end of an exchange that the server
//! closes with `ReadyForQuery`, idle, whether it is a COMMIT or a statement that is its own transaction.

use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{Around, Control, lock};

/// Requests encryption; it is answered by one byte.
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

/// What the client has sent and the server has not yet answered.
#[derive(Debug, Default)]
struct Conversation {
    /// For each exchange in progress: whether it may write.
    exchanges: VecDeque<bool>,
    /// Number of outstanding answers of one byte.
    bytes: usize,
}

/// Carries both directions until one end closes, or a commit is to be lost.
pub(super) async fn carry(client: TcpStream, server: TcpStream, control: &Control) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let conversation = Mutex::new(Conversation::default());
    tokio::select! {
        () = ask(from_client, to_server, &conversation, control) => {}
        () = answer(from_server, to_client, &conversation, control) => {}
    }
}

async fn ask(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    conversation: &Mutex<Conversation>,
    control: &Control,
) {
    let (mut buffer, mut client) = (vec![0; 64 * 1024], Client::default());
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        client.pending.extend_from_slice(&buffer[..read]);
        while let Some(said) = client.next() {
            match said {
                ClientMessage::Nothing => {}
                ClientMessage::AsksForEncryption => lock(conversation).bytes += 1,
                ClientMessage::EndsExchange { writes, commits } => {
                    if commits && control.is_losing(Around::Before) && control.loses(Around::Before) {
                        return;
                    }
                    lock(conversation).exchanges.push_back(writes);
                }
            }
        }
        control.hold_up().await;
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn answer(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    conversation: &Mutex<Conversation>,
    control: &Control,
) {
    let (mut buffer, mut pending, mut held) = (vec![0; 64 * 1024], Vec::new(), Vec::new());
    let mut failed = false;
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        pending.extend_from_slice(&buffer[..read]);
        loop {
            if lock(conversation).bytes > 0 && !pending.is_empty() {
                lock(conversation).bytes -= 1;
                held.push(pending.remove(0));
                continue;
            }
            let Some(message) = take(&mut pending, true) else { break };
            let (kind, status) = (message[0], message[message.len() - 1]);
            held.extend_from_slice(&message);
            match kind {
                b'E' => failed = true,
                b'Z' => {
                    let writes = lock(conversation).exchanges.pop_front().unwrap_or(false);
                    let committed = writes && !failed && status == b'I';
                    if committed && control.is_losing(Around::After) && control.loses(Around::After) {
                        return;
                    }
                    failed = false;
                }
                _ => {}
            }
        }
        let may_be_lost = control.is_losing(Around::After)
            && lock(conversation).exchanges.front().copied().unwrap_or(false);
        if !may_be_lost && !held.is_empty() {
            control.hold_up().await;
            if to.write_all(&held).await.is_err() {
                return;
            }
            held.clear();
        }
    }
}

/// The meaning of a client's message for transactions.
#[derive(Debug, PartialEq, Eq)]
enum ClientMessage {
    Nothing,
    AsksForEncryption,
    /// The server will answer `ReadyForQuery`. `commits`: it is a COMMIT, or a write without BEGIN.
    EndsExchange {
        writes: bool,
        commits: bool,
    },
}

/// What the client has sent.
#[derive(Debug, Default)]
struct Client {
    pending: Vec<u8>,
    started: bool,
    /// Prepared statements by name: whether they write.
    statements: HashMap<Vec<u8>, bool>,
    /// Whether this exchange executes a statement that writes.
    writes: bool,
    in_transaction: bool,
}

impl Client {
    fn next(&mut self) -> Option<ClientMessage> {
        let message = take(&mut self.pending, self.started)?;
        if !self.started {
            let code = u32::from_be_bytes(message.get(4..8)?.try_into().ok()?);
            self.started = code != SSL_REQUEST && code != GSS_REQUEST;
            return Some(if self.started {
                ClientMessage::Nothing
            } else {
                ClientMessage::AsksForEncryption
            });
        }
        let body = &message[5..];
        Some(match message[0] {
            b'P' => {
                let (name, rest) = text(body);
                let writes = writes(text(rest).0);
                self.statements.insert(name.to_vec(), writes);
                ClientMessage::Nothing
            }
            b'B' => {
                let (_, rest) = text(body);
                self.writes |= self.statements.get(text(rest).0).copied().unwrap_or(false);
                ClientMessage::Nothing
            }
            b'S' => {
                let writes = std::mem::take(&mut self.writes);
                ClientMessage::EndsExchange { writes, commits: writes && !self.in_transaction }
            }
            b'Q' => {
                let sql = text(body).0.to_ascii_uppercase();
                let commits = sql.starts_with(b"COMMIT");
                let ends = commits || sql.starts_with(b"ROLLBACK") && !sql.starts_with(b"ROLLBACK TO");
                self.in_transaction = !ends && (self.in_transaction || sql.starts_with(b"BEGIN"));
                ClientMessage::EndsExchange { writes: commits || writes(&sql), commits }
            }
            _ => ClientMessage::Nothing,
        })
    }
}

/// Takes a complete message from the front.
fn take(pending: &mut Vec<u8>, typed: bool) -> Option<Vec<u8>> {
    let at = usize::from(typed);
    let length = u32::from_be_bytes(pending.get(at..at + 4)?.try_into().ok()?);
    let whole = at + usize::try_from(length).ok()?.max(4);
    if pending.len() < whole {
        return None;
    }
    let rest = pending.split_off(whole);
    Some(std::mem::replace(pending, rest))
}

/// Splits the bytes at the first zero.
fn text(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|b| *b == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[]),
    }
}

fn writes(sql: &[u8]) -> bool {
    let sql = sql.to_ascii_uppercase();
    let has = |word: &[u8]| sql.windows(word.len()).any(|w| w == word);
    has(b"INSERT") || has(b"UPDATE") || has(b"DELETE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    fn client(said: &[Vec<u8>]) -> Vec<ClientMessage> {
        let mut client = Client { started: true, pending: said.concat(), ..Client::default() };
        std::iter::from_fn(|| client.next()).filter(|message| *message != ClientMessage::Nothing).collect()
    }

    #[test]
    fn a_write_outside_of_a_transaction_commits_at_its_sync() {
        let bind = message(b'B', b"\0s1\0\0\0");
        let parse = message(b'P', b"s1\0insert into t values ($1)\0\0\0");
        let sync = message(b'S', b"");
        let once = [parse, bind.clone(), sync.clone()].concat();
        let again = [bind, sync].concat();
        let commit = ClientMessage::EndsExchange { writes: true, commits: true };
        assert_eq!(client(&[once]), [ClientMessage::EndsExchange { writes: true, commits: true }]);
        assert_eq!(
            client(&[message(b'P', b"s1\0INSERT\0\0\0"), again.clone(), again]),
            [commit, ClientMessage::EndsExchange { writes: true, commits: true }]
        );
    }

    #[test]
    fn in_a_transaction_only_its_commit_commits() {
        let said = client(&[
            message(b'Q', b"BEGIN\0"),
            message(b'P', b"\0update t set a = 1\0\0\0"),
            message(b'B', b"\0\0\0\0"),
            message(b'S', b""),
            message(b'Q', b"COMMIT\0"),
        ]);
        let commits: Vec<bool> =
            said.iter().map(|s| matches!(s, ClientMessage::EndsExchange { commits: true, .. })).collect();
        assert_eq!(commits, [false, false, true]);
    }

    #[test]
    fn a_message_is_taken_once_it_is_whole() {
        let whole = message(b'S', b"abc");
        let mut pending = whole[..6].to_vec();
        assert_eq!(take(&mut pending, true), None);
        pending.extend_from_slice(&whole[6..]);
        assert_eq!(take(&mut pending, true), Some(whole));
        assert!(pending.is_empty());
    }
}
