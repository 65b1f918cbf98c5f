//! Passes connections to another process: a socket between the two carries their file descriptors.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::TcpStream,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Passes a connection on. The sender may drop it then: the other process has it.
pub(crate) fn give(to: &UnixStream, connection: &TcpStream) -> io::Result<()> {
    let connections = [connection.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&connections));
    // A descriptor travels with at least one byte.
    sendmsg(to, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for the next connection; `None` once the sender is gone.
pub(crate) fn take(from: impl AsFd) -> io::Result<Option<TcpStream>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let bytes = &mut [IoSliceMut::new(&mut byte)];
        match recvmsg(&from, bytes, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let taken: Option<OwnedFd> = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut taken) => taken.next(),
        _ => None,
    });
    taken.map(TcpStream::from).map(Some).ok_or_else(|| io::Error::other("a byte came without a connection"))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn what_is_given_is_taken_and_then_there_is_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (giver, taker) = UnixStream::pair().unwrap();
        give(&giver, &listener.accept().unwrap().0).unwrap();
        drop(giver);
        let mut taken = take(&taker).unwrap().expect("a connection was given");
        taken.write_all(b"hello").unwrap();
        drop(taken);
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "hello");
        assert!(take(&taker).unwrap().is_none());
    }
}
