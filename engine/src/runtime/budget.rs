//! What second attempts may cost a worker that fails: a budget for each participant, in this process's memory.
//!
//! An answered failure has its next attempt after a backoff. While a worker fails every call that would be five
//! commands for each it would get healthy. So a further attempt is paid for: with a tenth of one by each first attempt
//! that fails, with a whole one by each answer of a worker that works. Who cannot pay is woken later, as if the backoff
//! had been longer: the row stays as it is, and what a process forgets here changes no saga's fate.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use amends_protocol::Outcome;

/// In thousandths of an attempt. So much is there at first, and never more.
const MOST: u64 = 50_000;
/// A first attempt was answered as failed.
const FIRST: u64 = 100;
/// The worker works.
const WORKS: u64 = 1_000;
/// A further attempt.
const COST: u64 = 1_000;

/// The budgets of all participants.
#[derive(Debug, Clone, Default)]
pub struct RetryBudget(Arc<Mutex<HashMap<&'static str, Account>>>);

#[derive(Debug, Clone, Copy)]
struct Account {
    thousandths: u64,
    /// Since when nothing has been added for time: one attempt a second is free, so that somebody finds out that the
    /// worker is well again.
    since: Duration,
}

impl Account {
    fn add(&mut self, thousandths: u64) {
        self.thousandths = MOST.min(self.thousandths.saturating_add(thousandths));
    }

    fn pass(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.since).as_millis();
        self.since = self.since.max(now);
        self.add(u64::try_from(passed).unwrap_or(MOST));
    }
}

impl RetryBudget {
    /// Takes note of an answer; `attempt` is the answer's.
    pub(super) fn heard(&self, participant: &'static str, outcome: Outcome, attempt: u32, now: Duration) {
        let earned = match outcome {
            Outcome::FailedTransient if attempt == 1 => FIRST,
            Outcome::Succeeded | Outcome::Refused | Outcome::FailedForGood | Outcome::Fenced => WORKS,
            _ => return,
        };
        self.account(participant, now, |account| account.add(earned));
    }

    /// Pays for a further attempt; answers whether there was enough.
    pub(super) fn pay(&self, participant: &'static str, now: Duration) -> bool {
        self.account(participant, now, |account| match account.thousandths.checked_sub(COST) {
            Some(left) => {
                account.thousandths = left;
                true
            }
            None => false,
        })
    }

    fn account<T>(&self, participant: &'static str, now: Duration, act: impl FnOnce(&mut Account) -> T) -> T {
        let mut accounts: MutexGuard<'_, _> = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let account = accounts.entry(participant).or_insert(Account { thousandths: MOST, since: now });
        account.pass(now);
        act(account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn paid(budget: &RetryBudget, now: Duration) -> usize {
        (0..10_000).take_while(|_| budget.pay("payment", now)).count()
    }

    #[test]
    fn first_attempts_that_fail_pay_for_a_tenth_as_many_more() {
        let budget = RetryBudget::default();
        assert_eq!(paid(&budget, NOW), 50);
        for _ in 0..300 {
            budget.heard("payment", Outcome::FailedTransient, 1, NOW);
            budget.heard("payment", Outcome::FailedTransient, 2, NOW);
            budget.heard("payment", Outcome::InFlight, 1, NOW);
            budget.heard("inventory", Outcome::Succeeded, 1, NOW);
        }
        assert_eq!(paid(&budget, NOW), 30);
    }

    #[test]
    fn each_answer_of_a_worker_that_works_pays_for_one_and_so_does_each_second() {
        let budget = RetryBudget::default();
        paid(&budget, NOW);
        for outcome in [Outcome::Succeeded, Outcome::Refused, Outcome::FailedForGood] {
            budget.heard("payment", outcome, 3, NOW);
        }
        assert_eq!(paid(&budget, NOW), 3);
        assert_eq!(paid(&budget, NOW + Duration::from_millis(2_500)), 2);
        assert_eq!(paid(&budget, NOW + Duration::from_millis(3_000)), 1);
        assert_eq!(paid(&budget, NOW + Duration::from_hours(1)), 50);
    }
}
