//! Combines concurrent calls of one kind, for a port that accepts many at once.

use std::{
    collections::VecDeque,
    future::Future,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use futures::{channel::oneshot, future::Either};

/// Collects concurrent calls. There is no hidden task: the first caller makes the call for all requests queued
/// meanwhile, and if it is dropped, the next in line does.
#[derive(Debug)]
pub struct GroupCommit<Q, A> {
    waiting: Mutex<VecDeque<Waiting<Q, A>>>,
    leader: tokio::sync::Mutex<()>,
    max: usize,
}

#[derive(Debug)]
struct Waiting<Q, A> {
    request: Q,
    answer: oneshot::Sender<A>,
}

impl<Q: Clone + Send, A: Send> GroupCommit<Q, A> {
    /// Combines at most `max` requests into one call.
    pub fn new(max: usize) -> Self {
        Self { waiting: Mutex::default(), leader: tokio::sync::Mutex::new(()), max }
    }

    /// Makes a request, together with the requests queued meanwhile. `together` returns the answers in the same order;
    /// after an error each caller gets a copy of it.
    pub async fn call<F, E>(&self, request: Q, together: impl Fn(Vec<Q>) -> F) -> Result<A, E>
    where
        F: Future<Output = Result<Vec<A>, E>>,
    {
        let (answer, mut answered) = oneshot::channel();
        self.waiting().push_back(Waiting { request, answer });
        loop {
            let lead = {
                let lead = std::pin::pin!(self.leader.lock());
                match futures::future::select(&mut answered, lead).await {
                    Either::Left((Ok(answer), _)) => return Ok(answer),
                    // This cannot happen: an unanswered request goes back to the queue.
                    Either::Left((Err(_), _)) => std::future::pending().await,
                    Either::Right((lead, _)) => lead,
                }
            };
            if let Ok(Some(answer)) = answered.try_recv() {
                return Ok(answer);
            }
            yield_once().await;
            let mut taken = self.take();
            let answers = together(taken.requests()).await?;
            taken.answer(answers);
            drop(lead);
        }
    }

    /// Takes all waiting requests, up to the limit, except those whose callers have gone.
    fn take(&self) -> Taken<'_, Q, A> {
        let mut waiting = self.waiting();
        waiting.retain(|w| !w.answer.is_canceled());
        let most = waiting.len().min(self.max);
        Taken { group: self, requests: waiting.drain(..most).collect() }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting<Q, A>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Requests that one caller makes for all; those that stay unanswered go back to the front of the queue.
struct Taken<'a, Q: Clone + Send, A: Send> {
    group: &'a GroupCommit<Q, A>,
    requests: Vec<Waiting<Q, A>>,
}

impl<Q: Clone + Send, A: Send> Taken<'_, Q, A> {
    fn requests(&self) -> Vec<Q> {
        self.requests.iter().map(|w| w.request.clone()).collect()
    }

    fn answer(&mut self, answers: Vec<A>) {
        let answered = self.requests.len().min(answers.len());
        for (waiting, answer) in self.requests.drain(..answered).zip(answers) {
            // A caller that has gone needs no answer.
            let _ = waiting.answer.send(answer);
        }
    }
}

impl<Q: Clone + Send, A: Send> Drop for Taken<'_, Q, A> {
    fn drop(&mut self) {
        let mut waiting = self.group.waiting();
        for request in self.requests.drain(..).rev() {
            waiting.push_front(request);
        }
    }
}

/// Lets other tasks that are ready queue their requests first, so that they are combined.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt, executor::block_on, stream::FuturesUnordered};

    #[test]
    fn calls_made_at_once_go_together() {
        let group = GroupCommit::new(500);
        let sizes = Mutex::new(Vec::new());
        let together = |requests: Vec<u32>| {
            sizes.lock().unwrap().push(requests.len());
            async move { Ok::<_, ()>(requests.into_iter().map(|n| n + 1).collect()) }
        };
        let calls: FuturesUnordered<_> = (0..300).map(|n| group.call(n, together)).collect();
        let mut answers: Vec<u32> = block_on(calls.map(|a| a.unwrap()).collect());
        answers.sort_unstable();
        assert_eq!(answers, (1..=300).collect::<Vec<_>>());
        assert!(sizes.lock().unwrap().len() <= 2, "{sizes:?}");
    }

    #[test]
    fn when_the_leader_is_dropped_the_others_are_answered_all_the_same() {
        let group = GroupCommit::new(500);
        let mut leader = Box::pin(group.call(1, |_| futures::future::pending::<Result<Vec<u32>, ()>>()));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut other = Box::pin(group.call(2, |r: Vec<u32>| async move { Ok::<_, ()>(r) }));
        assert!(leader.as_mut().poll(&mut cx).is_pending());
        assert!(other.as_mut().poll(&mut cx).is_pending());
        assert!(leader.as_mut().poll(&mut cx).is_pending(), "calls for both and hears nothing");
        drop(leader);
        assert_eq!(block_on(other), Ok(2));
    }
}
