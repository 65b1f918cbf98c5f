//! Points at which a process kills itself, for tests of crashes. With the feature `failpoints` every port is
//! wrapped, and a call that reaches the point named in `AMENDS_FAILPOINT` (`store.commit.after`, or
//! `store.commit.after:3` for the third time) ends the process at once. The shipped program has none of this.

#[cfg(feature = "failpoints")]
mod engine;
#[cfg(feature = "failpoints")]
mod worker;

/// A port with its failpoints.
#[cfg(not(feature = "failpoints"))]
pub type Point<T> = T;
#[cfg(feature = "failpoints")]
pub type Point<T> = Failing<T>;

/// Wraps a port; the names of its failpoints begin with this name.
#[cfg(not(feature = "failpoints"))]
pub fn point<T>(_: &'static str, port: T) -> Point<T> {
    port
}
#[cfg(feature = "failpoints")]
pub fn point<T>(name: &'static str, port: T) -> Point<T> {
    Failing { name, port }
}

/// Marks that the process has reached this failpoint.
#[cfg(not(feature = "failpoints"))]
pub fn reached(_: &str, _: &str) {}
#[cfg(feature = "failpoints")]
pub use armed::reached;

/// A port, and the name of its failpoints.
#[cfg(feature = "failpoints")]
#[derive(Debug)]
pub struct Failing<T> {
    name: &'static str,
    port: T,
}

#[cfg(feature = "failpoints")]
impl<T> std::ops::Deref for Failing<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.port
    }
}

#[cfg(feature = "failpoints")]
impl<T> Failing<T> {
    fn before(&self, call: &str) {
        reached(self.name, &format!("{call}.before"));
    }

    fn after(&self, call: &str) {
        reached(self.name, &format!("{call}.after"));
    }
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    };

    /// The armed failpoint, and how many more times it may be passed.
    static ARMED: LazyLock<Option<(String, AtomicU32)>> = LazyLock::new(|| {
        let armed = std::env::var("AMENDS_FAILPOINT").ok()?;
        let (name, nth) = armed.split_once(':').unwrap_or((&armed, "1"));
        Some((name.to_owned(), AtomicU32::new(nth.parse().unwrap_or(1))))
    });

    /// Marks that the process has reached this failpoint. If it is the armed one, the process ends here, as by kill -9:
    /// nothing is flushed, and no peer is informed.
    pub fn reached(port: &str, call: &str) {
        let Some((name, left)) = &*ARMED else { return };
        let here =
            name.strip_prefix(port).and_then(|rest| rest.strip_prefix('.')).is_some_and(|rest| rest == call);
        if here && left.fetch_sub(1, Ordering::SeqCst) == 1 {
            eprintln!("failpoint {name}");
            std::process::abort();
        }
    }
}
