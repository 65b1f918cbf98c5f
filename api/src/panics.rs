//! Handling of panics.
//!
//! A panic in a request is answered with 500 (`routes::guarded`), a panic in a loop stops the process with a status
//! (`Process::watch`), and a failed piece of upkeep runs again at its next time. For a separate thread no task waits:
//! without the thread that polls a producer, for example, no send would ever complete, and the process would still
//! report that it is ready.

use std::{panic, process};

use tokio::runtime::Handle;

/// The exit status after such a panic; Rust uses the same for a panic in `main`.
const PANIC_STATUS: i32 = 101;

/// From now on the process ends when a thread outside the runtime panics.
pub fn end_the_process_with_a_thread() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        report(panic);
        if Handle::try_current().is_err() {
            process::exit(PANIC_STATUS);
        }
    }));
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        process::{Command, Stdio},
        thread,
    };

    use super::*;

    /// Not a test: the program that the next test runs as a separate process.
    #[test]
    fn panics_when_asked_to() {
        let Ok(place) = env::var("PANIC_IN") else { return };
        end_the_process_with_a_thread();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        match place.as_str() {
            "thread" => drop(thread::spawn(|| panic!("as asked")).join()),
            _ => {
                assert!(runtime.block_on(async { tokio::spawn(async { panic!("as asked") }).await }).is_err())
            }
        }
        process::exit(7);
    }

    #[test]
    fn a_thread_s_panic_ends_the_process_and_a_task_s_is_left_to_whoever_waits_for_it() {
        for (place, status) in [("thread", PANIC_STATUS), ("task", 7)] {
            let ended = Command::new(env::current_exe().unwrap())
                .args(["panics::tests::panics_when_asked_to", "--exact"])
                .env("PANIC_IN", place)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert_eq!(ended.code(), Some(status), "{place}");
        }
    }
}
