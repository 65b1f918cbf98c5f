//! Metrics of orders and sagas, and of the loops, domain events and webhooks of the engine.

use super::{
    LabelValues::{Currencies, Each, SomeOf},
    Metric,
    RecordedBy::{self, Deciders, Readers, Role},
    counter, gauge, histogram,
    values::{
        KIND, OPEN_STATE, OUTCOME, PARTICIPANT, STATUS, WHY, WORKFLOW, odd_reasons, owned, pieces, steps,
    },
};

const API: RecordedBy = Role("api");
const ENGINE: RecordedBy = Role("engine");

pub(super) const METRICS: &[Metric] = &[
    // Orders and sagas.
    counter(
        "amends_order_statuses_total",
        ENGINE,
        &[STATUS],
        "Orders that reached a status, counted when it is published; what is published again is counted again.",
    ),
    gauge(
        "amends_orders_open",
        ENGINE,
        &[STATUS],
        "Orders of which a saga has not ended, by status. Every engine counts all of them: take max.",
    ),
    gauge(
        "amends_engine_sagas",
        ENGINE,
        &[WORKFLOW, OPEN_STATE],
        "Sagas that have not ended. Every engine counts all of them: take max.",
    ),
    gauge(
        "amends_engine_sagas_stuck",
        ENGINE,
        &[WORKFLOW, OPEN_STATE],
        "Sagas without progress for stuck_after. Every engine counts all of them: take max.",
    ),
    gauge(
        "amends_engine_orphans",
        ENGINE,
        &[],
        "Ended sagas of which an effect that was discovered late is being undone. Take max.",
    ),
    gauge(
        "amends_engine_money_held_minor_units",
        ENGINE,
        &[
            ("currency", Currencies),
            ("state", Each(|| owned(&["running", "compensating", "parked", "completed", "undone"]))),
        ],
        "Captured money of sagas that have not ended, or of which a late effect is being undone. Take max.",
    ),
    histogram(
        "amends_engine_saga_seconds",
        Deciders,
        &[WORKFLOW, ("outcome", Each(|| owned(&["completed", "undone"])))],
        "Time from a saga's birth to its end.",
    ),
    histogram(
        "amends_engine_step_seconds",
        Deciders,
        &[WORKFLOW, ("step", Each(steps)), ("kind", Each(|| owned(&["execute", "compensate"])))],
        "Time from the first issue of a command to the answer that settles it, over all attempts.",
    ),
    counter(
        "amends_engine_commands_total",
        Deciders,
        &[PARTICIPANT, KIND, ("sent", Each(|| owned(&["first", "again"])))],
        "Commands sent. Again: a further attempt, or a repetition of one that was not answered.",
    ),
    counter(
        "amends_engine_answers_total",
        ENGINE,
        &[PARTICIPANT, KIND, OUTCOME],
        "Replies accepted. The outcome unknown says that the worker could not find out.",
    ),
    counter(
        "amends_engine_incidents_total",
        Deciders,
        &[("kind", Each(|| owned(&["exposure_not_netted", "late_success"])))],
        "Events that should be impossible.",
    ),
    counter(
        "amends_engine_poisoned_total",
        Deciders,
        &[],
        "Sagas that were parked because their events cannot be stored.",
    ),
    counter("amends_engine_strays_total", ENGINE, &[], "Successes that no saga here ordered."),
    gauge(
        "amends_engine_lost_commits",
        ENGINE,
        &[],
        "Sagas whose newest commit the database was found to have lost within the last day.",
    ),
    // Replies.
    counter("amends_engine_dead_letters_total", ENGINE, &[], "Replies that cannot be read or routed."),
    counter("amends_engine_forged_replies_total", ENGINE, &[], "Replies without the token of their command."),
    counter(
        "amends_engine_old_epoch_replies_total",
        ENGINE,
        &[],
        "Replies from before the database was restored.",
    ),
    counter(
        "amends_engine_odd_replies_total",
        ENGINE,
        &[("reason", Each(odd_reasons))],
        "Replies that changed nothing.",
    ),
    counter(
        "amends_engine_odd_notes_lost_total",
        ENGINE,
        &[],
        "Notes of odd replies that could not be written.",
    ),
    counter(
        "amends_engine_deferred_replies_total",
        ENGINE,
        &[WHY],
        "Replies that could not be judged on arrival.",
    ),
    counter(
        "amends_engine_deferred_replies_judged_total",
        ENGINE,
        &[],
        "Deferred replies that were judged later.",
    ),
    histogram("amends_engine_batch_size", ENGINE, &[], "Replies in a batch."),
    histogram(
        "amends_engine_reply_to_command_seconds",
        ENGINE,
        &[],
        "Time of a batch, from its receipt to the acknowledged next commands.",
    ),
    // Writes.
    histogram("amends_engine_commit_seconds", Deciders, &[], "Time of a transaction that writes decisions."),
    counter(
        "amends_engine_conflicts_total",
        Deciders,
        &[],
        "Decisions that were made again because another writer was first.",
    ),
    counter("amends_engine_passed_over_total", Deciders, &[WHY], "Sagas that a batch passed over."),
    counter(
        "amends_postgres_commits_read_back_total",
        Deciders,
        &[],
        "Commits whose answer was lost, and whose result was read back.",
    ),
    counter(
        "amends_postgres_unreadable_rows_total",
        Deciders,
        &[],
        "Rows of sagas that this program cannot read.",
    ),
    counter(
        "amends_postgres_homes_failed_total",
        Deciders,
        &[],
        "Failures of a part of a distributed database.",
    ),
    counter(
        "amends_orders_claims_replaced_total",
        API,
        &[],
        "Idempotency keys that were taken for an order that was never placed, and were replaced.",
    ),
    // Timers, recovery, loops.
    histogram("amends_engine_timer_lateness_seconds", ENGINE, &[], "How late the timers of sagas fire."),
    counter(
        "amends_engine_repeats_put_off_total",
        ENGINE,
        &[PARTICIPANT, ("after", Each(|| owned(&["failed", "silent", "unsent"])))],
        "Repetitions that wait until the participant, or the broker, recovers.",
    ),
    counter(
        "amends_engine_recovered_total",
        ENGINE,
        &[],
        "Sagas whose commands were sent again after a change of ownership.",
    ),
    counter(
        "amends_engine_clock_set_back_total",
        ENGINE,
        &[],
        "Times that the database's clock was found to be set back.",
    ),
    counter(
        "amends_engine_loop_failures_total",
        ENGINE,
        &[("loop", Each(|| owned(&["deferred", "publisher", "recovery", "replies", "timers", "webhooks"])))],
        "Runs of an engine's loop that failed and are repeated.",
    ),
    histogram("amends_upkeep_seconds", Readers, &[("piece", SomeOf(pieces))], "Time of a run of upkeep."),
    // Domain events and webhooks.
    counter("amends_engine_domain_events_total", ENGINE, &[], "Domain events sent."),
    histogram(
        "amends_engine_publish_lag_seconds",
        ENGINE,
        &[],
        "Time from a decision to its acknowledged event, of the oldest event of each batch.",
    ),
    gauge(
        "amends_engine_publisher_behind_seconds",
        ENGINE,
        &[],
        "Time since the publisher of domain events last had nothing left to publish.",
    ),
    gauge(
        "amends_engine_slots_handed_over",
        ENGINE,
        &[],
        "Slots whose events wait for a program that can read the next entry.",
    ),
    counter(
        "amends_webhook_deliveries_planned_total",
        ENGINE,
        &[],
        "Deliveries of events to webhooks that were planned.",
    ),
    gauge(
        "amends_webhook_deliveries_due",
        ENGINE,
        &[],
        "Deliveries to webhooks that are due. Every engine counts all of them, up to 100,000: take max.",
    ),
    counter(
        "amends_webhook_attempts_total",
        ENGINE,
        &[("result", Each(|| owned(&["delivered", "retried", "failed", "gone"])))],
        "Attempts to deliver to a webhook.",
    ),
    histogram("amends_webhook_attempt_seconds", ENGINE, &[], "Time of an attempt to deliver to a webhook."),
    counter(
        "amends_webhooks_disabled_total",
        ENGINE,
        &[],
        "Webhooks that were disabled because their receiver is gone, or has failed for too long.",
    ),
];
