//! Limits the cost of repetitions: one budget per participant, in this process's memory.
//!
//! A failed attempt is repeated after a backoff. While a worker fails every call, that would be five commands for each
//! that it gets when healthy. An unanswered command is probed for again and again. While a worker is away, or still has
//! to work through what arrived meanwhile, that would be a dozen messages for each. So every repetition is paid for
//! from an account; there is one account per reason. A saga whose repetition cannot be paid for is woken later, as if
//! its backoff were longer. Its row stays as it is, and a process that forgets its budgets changes the outcome of no
//! saga.

mod earning;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub(super) use earning::AnswerReceived;
use earning::{REPETITION_COST, earned};
pub use earning::{RepeatAllowance, RepeatAllowances};

use crate::core::Repeats;

/// Commands that could not be sent for this long are due again. From then on they are only tried from time to time.
const UNSENT_LONG: Duration = Duration::from_secs(5);
/// Interval between two tries while nothing can be sent to a participant.
const UNSENT_TRY_INTERVAL: Duration = Duration::from_secs(3);

/// The participant of a repetition, and its reason.
pub(super) type Repetition = (&'static str, Repeats);

/// Whether to send commands to a participant now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// Nothing is known to fail.
    Usual,
    /// The last ones could not be sent: whether these can is found out, without waiting for long.
    Trial,
    /// Nothing has been sent for a long time, and another try is not due yet.
    Later,
}

/// The budgets of all participants, and to which of them nothing can be sent. While nothing can be sent to a participant,
/// nothing is charged: an unsent message is no repetition, whichever process failed to send it.
#[derive(Debug, Clone, Default)]
pub struct RepeatBudget(Arc<Mutex<Budgets>>);

#[derive(Debug, Default)]
struct Budgets {
    allowances: RepeatAllowances,
    accounts: HashMap<Repetition, Account>,
    /// By participant: each has a topic of its own, which may be the only one that cannot be produced to.
    unsent: HashMap<&'static str, Unsent>,
    /// By participant: time at which sending succeeded again after a long failure.
    resumed_at: HashMap<&'static str, Duration>,
}

/// Sending to a participant fails.
#[derive(Debug, Clone, Copy)]
struct Unsent {
    /// Since when.
    since: Duration,
    /// Time of the last failure, or of a try that has not ended.
    at: Duration,
}

impl Unsent {
    fn is_long(self, now: Duration) -> bool {
        now.saturating_sub(self.since) >= UNSENT_LONG
    }

    fn try_is_due(self, now: Duration) -> bool {
        now.saturating_sub(self.at) >= UNSENT_TRY_INTERVAL
    }
}

#[derive(Debug, Clone, Copy)]
struct Account {
    thousandths: u64,
    /// Time up to which the per-minute amount has been added.
    since: Duration,
}

impl RepeatBudget {
    /// Creates budgets with these allowances.
    pub fn new(allowances: RepeatAllowances) -> Self {
        Self(Arc::new(Mutex::new(Budgets { allowances, ..Budgets::default() })))
    }

    /// Records an answer.
    pub(super) fn note_answer(&self, participant: &'static str, answer: AnswerReceived, now: Duration) {
        let mut budgets = self.budgets();
        for why in [Repeats::Failed, Repeats::Silent] {
            let most = budgets.allowances.of(why).most();
            let account = budgets.account((participant, why), now);
            account.thousandths = most.min(account.thousandths + earned(why, answer));
        }
    }

    /// Records that messages were sent to a participant. Returns whether sending had failed before.
    pub(super) fn sent(&self, participant: &'static str, now: Duration) -> bool {
        let mut budgets = self.budgets();
        let Some(unsent) = budgets.unsent.remove(participant) else { return false };
        if unsent.is_long(now) {
            budgets.resumed_at.insert(participant, now);
        }
        true
    }

    /// Records that messages to a participant could not be sent. Returns whether this is the first failure.
    pub(super) fn unsent(&self, participant: &'static str, now: Duration) -> bool {
        let mut budgets = self.budgets();
        match budgets.unsent.get_mut(participant) {
            Some(unsent) => {
                unsent.at = now;
                false
            }
            None => budgets.unsent.insert(participant, Unsent { since: now, at: now }).is_none(),
        }
    }

    /// Returns whether sending to a participant failed for a long time that ended less than `ago` ago, or still fails.
    pub(super) fn was_unsent(&self, participant: &'static str, now: Duration, ago: Duration) -> bool {
        let budgets = self.budgets();
        budgets.unsent.get(participant).is_some_and(|unsent| unsent.is_long(now))
            || budgets.resumed_at.get(participant).is_some_and(|at| now.saturating_sub(*at) < ago)
    }

    /// Returns whether nothing can be sent to a participant, as far as this process knows.
    pub(super) fn is_unsent(&self, participant: &'static str) -> bool {
        self.budgets().unsent.contains_key(participant)
    }

    /// Returns the participants for which it is time to try if sending works again.
    pub(super) fn to_try(&self, now: Duration) -> Vec<&'static str> {
        let budgets = self.budgets();
        let due = budgets.unsent.iter().filter(|(_, unsent)| unsent.try_is_due(now));
        let mut due: Vec<_> = due.map(|(participant, _)| *participant).collect();
        due.sort_unstable();
        due
    }

    /// Returns whether to send commands to a participant now. After a long failure, of several callers only one tries.
    pub(super) fn sending(&self, participant: &'static str, now: Duration) -> Sending {
        let mut budgets = self.budgets();
        match budgets.unsent.get_mut(participant) {
            None => Sending::Usual,
            Some(unsent) if unsent.is_long(now) && !unsent.try_is_due(now) => Sending::Later,
            Some(unsent) => {
                unsent.at = now;
                Sending::Trial
            }
        }
    }

    /// Returns how many of these repetitions the account can pay for now.
    pub(super) fn affords(&self, repetition: Repetition, now: Duration) -> usize {
        let mut budgets = self.budgets();
        if budgets.unsent.contains_key(repetition.0) {
            return 0;
        }
        usize::try_from(budgets.account(repetition, now).thousandths / REPETITION_COST).unwrap_or(usize::MAX)
    }

    /// Pays for all of these or for none; returns the one that could not be paid for. More repetitions than an account
    /// can ever hold are paid for by a full account.
    pub(super) fn pay(&self, repetitions: &[Repetition], now: Duration) -> Result<(), Repetition> {
        let mut budgets = self.budgets();
        let unsent = repetitions.iter().find(|(participant, _)| budgets.unsent.contains_key(participant));
        if let Some(unsent) = unsent {
            return Err(*unsent);
        }
        let mut costs: HashMap<Repetition, u64> = HashMap::new();
        for repetition in repetitions {
            let most = budgets.allowances.of(repetition.1).most();
            let cost = costs.entry(*repetition).or_default();
            *cost = most.min(*cost + REPETITION_COST);
        }
        for repetition in repetitions {
            if budgets.account(*repetition, now).thousandths < costs[repetition] {
                return Err(*repetition);
            }
        }
        for (repetition, cost) in costs {
            budgets.account(repetition, now).thousandths -= cost;
        }
        Ok(())
    }

    /// Refunds repetitions that were paid for but not sent.
    pub(super) fn refund(&self, repetitions: &[Repetition], now: Duration) {
        let mut budgets = self.budgets();
        for repetition in repetitions {
            let most = budgets.allowances.of(repetition.1).most();
            let account = budgets.account(*repetition, now);
            account.thousandths = most.min(account.thousandths + REPETITION_COST);
        }
    }

    fn budgets(&self) -> MutexGuard<'_, Budgets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Budgets {
    /// Returns an account, with the per-minute amount added.
    fn account(&mut self, repetition: Repetition, now: Duration) -> &mut Account {
        let allowance = self.allowances.of(repetition.1);
        let most = allowance.most();
        let account = self.accounts.entry(repetition).or_insert(Account { thousandths: most, since: now });
        let passed = u64::try_from(now.saturating_sub(account.since).as_millis()).unwrap_or(u64::MAX);
        // Milliseconds times repetitions per minute, in thousandths.
        let more = passed.saturating_mul(u64::from(allowance.a_minute)) / 60;
        if more > 0 {
            account.thousandths = most.min(account.thousandths.saturating_add(more));
            // The rest of the time counts in the next call.
            let counted = more.saturating_mul(60).div_ceil(u64::from(allowance.a_minute));
            account.since = now.min(account.since + Duration::from_millis(counted));
        }
        account
    }
}

#[cfg(test)]
mod tests {
    use amends_protocol::Outcome;

    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn answer(budget: &RepeatBudget, participant: &'static str, outcome: Outcome, attempt: u32) {
        budget.note_answer(participant, AnswerReceived { outcome, attempt, soon: false }, NOW);
    }

    fn paid(budget: &RepeatBudget, why: Repeats, now: Duration) -> usize {
        (0..10_000).take_while(|_| budget.pay(&[("payment", why)], now).is_ok()).count()
    }

    #[test]
    fn what_time_adds_slowly_is_added_however_often_is_looked() {
        let allowance = RepeatAllowance { most: 1, a_minute: 1 };
        let budget = RepeatBudget::new(RepeatAllowances { failed: allowance, silent: allowance });
        assert_eq!(paid(&budget, Repeats::Silent, NOW), 1);
        for passed in (0..60_000).step_by(25) {
            let afforded = budget.affords(("payment", Repeats::Silent), NOW + Duration::from_millis(passed));
            assert_eq!(afforded, 0, "after {passed} ms");
        }
        assert_eq!(paid(&budget, Repeats::Silent, NOW + Duration::from_millis(62_000)), 1);
    }

    #[test]
    fn first_attempts_that_fail_pay_for_a_tenth_as_many_more() {
        let budget = RepeatBudget::default();
        assert_eq!(paid(&budget, Repeats::Failed, NOW), 50);
        for _ in 0..300 {
            answer(&budget, "payment", Outcome::FailedTransient, 1);
            answer(&budget, "payment", Outcome::FailedTransient, 2);
            answer(&budget, "payment", Outcome::InFlight, 1);
            answer(&budget, "inventory", Outcome::Succeeded, 1);
        }
        assert_eq!(paid(&budget, Repeats::Failed, NOW), 30);
    }

    #[test]
    fn each_answer_of_a_worker_that_works_pays_for_one_more_attempt_and_so_does_each_second() {
        let budget = RepeatBudget::default();
        paid(&budget, Repeats::Failed, NOW);
        for outcome in [Outcome::Succeeded, Outcome::Refused, Outcome::FailedForGood] {
            answer(&budget, "payment", outcome, 3);
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
            answer(&budget, "payment", Outcome::InFlight, 1);
            answer(&budget, "inventory", Outcome::Succeeded, 1);
        }
        assert_eq!(paid(&budget, Repeats::Silent, NOW), 30);
        for _ in 0..30 {
            let answer = AnswerReceived { outcome: Outcome::Refused, attempt: 1, soon: true };
            budget.note_answer("payment", answer, NOW);
        }
        assert_eq!(paid(&budget, Repeats::Silent, NOW), 30);
        assert_eq!(paid(&budget, Repeats::Silent, NOW + Duration::from_secs(3)), 30, "ten a second");
        assert_eq!(paid(&budget, Repeats::Failed, NOW), 50, "an account of its own");
        assert_eq!(paid(&budget, Repeats::Silent, NOW + Duration::from_hours(1)), 200);
    }

    #[test]
    fn while_nothing_can_be_sent_nothing_is_paid_for_and_what_was_not_sent_is_given_back() {
        let (budget, mine) = (RepeatBudget::default(), [("payment", Repeats::Silent)]);
        assert_eq!(paid(&budget, Repeats::Silent, NOW), 200);
        assert_eq!(budget.sending("payment", NOW), Sending::Usual);
        assert!(budget.unsent("payment", NOW), "news");
        budget.refund(&[mine[0]; 200], NOW);
        assert_eq!((paid(&budget, Repeats::Silent, NOW), budget.affords(mine[0], NOW)), (0, 0));
        assert_eq!(budget.sending("payment", NOW), Sending::Trial, "it may have been an accident");
        let later = NOW + UNSENT_LONG;
        assert_eq!((budget.to_try(NOW), budget.to_try(later)), (vec![], vec!["payment"]));
        assert_eq!(budget.sending("payment", later), Sending::Trial);
        assert_eq!(budget.sending("payment", later), Sending::Later, "one at a time");
        assert!(!budget.unsent("payment", later), "no news");
        assert_eq!((paid(&budget, Repeats::Silent, later), budget.affords(mine[0], later)), (0, 0));
        assert!(budget.is_unsent("payment"));
        assert!(budget.sent("payment", later) && !budget.sent("payment", later));
        assert_eq!(budget.affords(mine[0], later), 200);
        assert_eq!(paid(&budget, Repeats::Silent, later), 200);
        assert!(budget.was_unsent("payment", later, UNSENT_LONG), "until just now");
        assert!(!budget.was_unsent("payment", later + UNSENT_LONG, UNSENT_LONG));
    }

    #[test]
    fn what_cannot_be_sent_to_one_participant_is_nothing_to_the_others() {
        let (budget, other) = (RepeatBudget::default(), ("shipment", Repeats::Silent));
        budget.unsent("payment", NOW);
        let later = NOW + UNSENT_LONG;
        assert_eq!((budget.affords(other, later), budget.pay(&[other], later)), (200, Ok(())));
        assert_eq!(budget.sending("shipment", later), Sending::Usual);
        assert!(!budget.is_unsent("shipment") && !budget.was_unsent("shipment", later, UNSENT_LONG));
        assert!(!budget.sent("shipment", later) && budget.is_unsent("payment"), "nor the other way round");
        let both = [other, ("payment", Repeats::Failed)];
        assert_eq!(budget.pay(&both, later), Err(both[1]), "a saga's are paid all or none");
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
