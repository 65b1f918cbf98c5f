//! The span in which a future runs. It works on any runtime, because it is set at each poll.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::TraceContext;

thread_local! {
    static CURRENT: Cell<Option<TraceContext>> = const { Cell::new(None) };
}

/// Returns the context of the request that is being served here, if it has one.
pub fn current() -> Option<TraceContext> {
    CURRENT.get()
}

/// Runs a future in a context; `None` leaves it as it is.
pub fn scope<F: Future>(context: Option<TraceContext>, future: F) -> Scoped<F> {
    Scoped { context, future: Box::pin(future) }
}

/// A future that runs in a context.
#[derive(Debug)]
pub struct Scoped<F> {
    context: Option<TraceContext>,
    future: Pin<Box<F>>,
}

/// Resets the context, also after a panic.
struct Reset(Option<TraceContext>);

impl Drop for Reset {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _reset = self.context.map(|context| Reset(CURRENT.replace(Some(context))));
        self.future.as_mut().poll(cx)
    }
}
