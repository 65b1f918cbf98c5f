//! Any bytes from Kafka parse to a command, a reply, or an error; a parsed message is the same after writing and
//! parsing again.

#![no_main]

use amends_protocol::wire;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(command) = wire::command(bytes) {
        assert_eq!(wire::command(&wire::write(&command)), Ok(command));
    }
    if let Ok(reply) = wire::reply(bytes) {
        assert_eq!(wire::reply(&wire::write(&reply)), Ok(reply));
    }
});
