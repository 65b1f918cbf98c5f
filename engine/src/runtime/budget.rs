//! What repetition may cost a participant: a budget each, in this process's memory.
//!
//! An answered failure has its next attempt after a backoff: while a worker fails every call that would be five
//! commands for each it would get healthy. What nobody answers is asked after again and again: while a worker is away,
//! and still has before it all that came meanwhile, that would be a dozen messages for each. So a repetition is paid
//! for, of an account for each reason. Who cannot pay is woken later, as if the backoff had been longer: the row stays
//! as it is, and what a process forgets here changes no saga's fate.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use amends_protocol::Outcome;

use crate::core::Repeats;

/// What a repetition costs; all amounts are in thousandths of one.
const COST: u64 = 1_000;

/// What an account of this reason has at first, and at most.
const fn most(why: Repeats) -> u64 {
    match why {
        Repeats::Failed => 50 * COST,
        Repeats::Silent => 200 * COST,
    }
}

/// What comes in each second, whatever is answered: somebody must find out that the worker is well again.
const fn a_second(why: Repeats) -> u64 {
    match why {
        Repeats::Failed => COST,
        Repeats::Silent => 10 * COST,
    }
}

/// What is known of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub outcome: Outcome,
    pub attempt: u32,
    /// It came soon: whoever gives it has no backlog.
    pub soon: bool,
}

/// What an answer brings. A worker that works earns its failures another attempt each; first failures pay for a tenth
/// as many more. Where a worker answers soon, what it has not answered is lost, and each answer pays for a repetition;
/// where it answers late, what it has not answered waits its turn, and an answer pays for a tenth.
fn earned(why: Repeats, Answer { outcome, attempt, soon }: Answer) -> u64 {
    match (why, outcome) {
        (Repeats::Silent, _) => {
            if soon {
                COST
            } else {
                COST / 10
            }
        }
        (Repeats::Failed, Outcome::FailedTransient) if attempt == 1 => COST / 10,
        (
            Repeats::Failed,
            Outcome::Succeeded | Outcome::Refused | Outcome::FailedForGood | Outcome::Fenced,
        ) => COST,
        (Repeats::Failed, _) => 0,
    }
}

/// Whom a repetition goes to, and why.
pub(super) type Repetition = (&'static str, Repeats);

/// The budgets of all participants.
#[derive(Debug, Clone, Default)]
pub struct RepeatBudget(Arc<Mutex<HashMap<Repetition, Account>>>);

#[derive(Debug, Clone, Copy)]
struct Account {
    thousandths: u64,
    /// Since when nothing has been added for time.
    since: Duration,
}

impl RepeatBudget {
    /// Takes note of an answer.
    pub(super) fn heard(&self, participant: &'static str, answer: Answer, now: Duration) {
        let mut accounts = self.accounts();
        for why in [Repeats::Failed, Repeats::Silent] {
            let account = open(&mut accounts, participant, why, now);
            account.thousandths = most(why).min(account.thousandths + earned(why, answer));
        }
    }

    /// Pays for all of these or for none; answers which of them could not be paid. More than an account can ever hold is
    /// paid by a full one.
    pub(super) fn pay(&self, repetitions: &[Repetition], now: Duration) -> Result<(), Repetition> {
        let mut costs: HashMap<Repetition, u64> = HashMap::new();
        for repetition in repetitions {
            let cost = costs.entry(*repetition).or_default();
            *cost = most(repetition.1).min(*cost + COST);
        }
        let mut accounts = self.accounts();
        for &(participant, why) in repetitions {
            if open(&mut accounts, participant, why, now).thousandths < costs[&(participant, why)] {
                return Err((participant, why));
            }
        }
        for ((participant, why), cost) in costs {
            open(&mut accounts, participant, why, now).thousandths -= cost;
        }
        Ok(())
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Repetition, Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An account with what time has added to it.
fn open<'a>(
    accounts: &'a mut HashMap<Repetition, Account>,
    participant: &'static str,
    why: Repeats,
    now: Duration,
) -> &'a mut Account {
    let account =
        accounts.entry((participant, why)).or_insert(Account { thousandths: most(why), since: now });
    let passed = u64::try_from(now.saturating_sub(account.since).as_millis()).unwrap_or(u64::MAX);
    let more = passed.saturating_mul(a_second(why) / 1_000);
    account.thousandths = most(why).min(account.thousandths.saturating_add(more));
    account.since = account.since.max(now);
    account
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn heard(budget: &RepeatBudget, participant: &'static str, outcome: Outcome, attempt: u32) {
        budget.heard(participant, Answer { outcome, attempt, soon: false }, NOW);
    }

    fn paid(budget: &RepeatBudget, why: Repeats, now: Duration) -> usize {
        (0..10_000).take_while(|_| budget.pay(&[("payment", why)], now).is_ok()).count()
    }

    #[test]
    fn first_attempts_that_fail_pay_for_a_tenth_as_many_more() {
        let budget = RepeatBudget::default();
        assert_eq!(paid(&budget, Repeats::Failed, NOW), 50);
        for _ in 0..300 {
            heard(&budget, "payment", Outcome::FailedTransient, 1);
            heard(&budget, "payment", Outcome::FailedTransient, 2);
            heard(&budget, "payment", Outcome::InFlight, 1);
            heard(&budget, "inventory", Outcome::Succeeded, 1);
        }
        assert_eq!(paid(&budget, Repeats::Failed, NOW), 30);
    }

    #[test]
    fn each_answer_of_a_worker_that_works_pays_for_one_more_attempt_and_so_does_each_second() {
        let budget = RepeatBudget::default();
        paid(&budget, Repeats::Failed, NOW);
        for outcome in [Outcome::Succeeded, Outcome::Refused, Outcome::FailedForGood] {
            heard(&budget, "payment", outcome, 3);
        }
        assert_eq!(paid(&budget, Repeats::Failed, NOW), 3);
        assert_eq!(paid(&budget, Repeats::Failed, NOW + Duration::from_millis(2_500)), 2);
        assert_eq!(paid(&budget, Repeats::Failed, NOW + Duration::from_millis(3_000)), 1);
        assert_eq!(paid(&budget, Repeats::Failed, NOW + Duration::from_hours(1)), 50);
    }

    #[test]
    fn after_silence_ten_late_answers_pay_for_one_repetition_and_so_does_one_that_came_soon() {
        let budget = RepeatBudget::default();
        assert_eq!(paid(&budget, Repeats::Silent, NOW), 200);
        for _ in 0..300 {
            heard(&budget, "payment", Outcome::InFlight, 1);
            heard(&budget, "inventory", Outcome::Succeeded, 1);
        }
        assert_eq!(paid(&budget, Repeats::Silent, NOW), 30);
        for _ in 0..30 {
            let answer = Answer { outcome: Outcome::Refused, attempt: 1, soon: true };
            budget.heard("payment", answer, NOW);
        }
        assert_eq!(paid(&budget, Repeats::Silent, NOW), 30);
        assert_eq!(paid(&budget, Repeats::Silent, NOW + Duration::from_secs(3)), 30, "ten a second");
        assert_eq!(paid(&budget, Repeats::Failed, NOW), 50, "an account of its own");
        assert_eq!(paid(&budget, Repeats::Silent, NOW + Duration::from_hours(1)), 200);
    }

    #[test]
    fn of_a_saga_all_repetitions_are_paid_or_none_and_a_full_account_pays_for_any_number() {
        let budget = RepeatBudget::default();
        let (mine, other) = (("payment", Repeats::Failed), ("shipment", Repeats::Failed));
        assert_eq!(budget.pay(&[[mine; 30].as_slice(), &[other]].concat(), NOW), Ok(()));
        assert_eq!(budget.pay(&[[other; 30].as_slice(), &[mine; 21]].concat(), NOW), Err(mine));
        assert_eq!(budget.pay(&[other; 49], NOW), Ok(()), "nothing was taken from it");
        assert_eq!(paid(&budget, Repeats::Failed, NOW), 20, "nor from the other");
        assert_eq!(budget.pay(&[mine; 1_000], NOW + Duration::from_secs(49)), Err(mine));
        assert_eq!(budget.pay(&[mine; 1_000], NOW + Duration::from_secs(50)), Ok(()));
    }
}
