//! The points: before and after each call of each port. A call that is made all the time (a poll, a ping) has only the
//! point after it has found something.

/// Each role, as on the command line, with its points.
pub const POINTS: [(&[&str], &[&str]); 6] = [
    (
        &["engine"],
        &[
            "store.now.before",
            "store.now.after",
            "store.load.before",
            "store.load.after",
            "store.due.after",
            "store.in_flight.after",
            "store.commit.before",
            "store.commit.after",
            "store.reschedule.before",
            "store.reschedule.after",
            "store.inputs.before",
            "store.inputs.after",
            "store.defer.before",
            "store.defer.after",
            "store.deferred.after",
            "store.forget_deferred.before",
            "store.forget_deferred.after",
            "source.receive.after",
            "source.commit.before",
            "source.commit.after",
            "sink.send.before",
            "sink.send.after",
            "events.send.before",
            "events.send.after",
        ],
    ),
    (
        &["worker", "inventory"],
        &[
            "rows.insert_in.before",
            "rows.insert_in.after",
            "rows.lock.before",
            "rows.lock.after",
            "executor.run.before",
            "executor.run.after",
            "rows.write.before",
            "rows.write.after",
            "rows.commit.before",
            "rows.commit.after",
            "sink.send.before",
            "sink.send.after",
            "source.receive.after",
            "source.commit.before",
            "source.commit.after",
            "events.send.before",
            "events.send.after",
        ],
    ),
    (&["worker", "payment"], &EXTERNAL),
    (&["worker", "shipment"], &EXTERNAL),
    (&["worker", "notification"], &["source.receive.after", "source.commit.before", "source.commit.after"]),
    (
        &["api"],
        &[
            "orders.place.before",
            "orders.place.after",
            "store.load.before",
            "store.load.after",
            "store.commit.before",
            "store.commit.after",
            "sink.send.before",
            "sink.send.after",
        ],
    ),
];

/// The points that a run need not reach, with the reason. Any other point must be reached in some situation: otherwise it
/// tests nothing.
pub const MAY_BE_UNREACHED: [(&str, &str, &str); 7] = [
    ("engine", "store.reschedule.before", PUT_OFF),
    ("engine", "store.reschedule.after", PUT_OFF),
    ("engine", "store.in_flight.after", "an engine must gain a slot just while an order of it is under way"),
    ("payment", "rows.due.after", LEFT_BEHIND),
    ("shipment", "rows.due.after", LEFT_BEHIND),
    ("shipment", "executor.look_up.before", CARRIER_ANSWERS),
    ("shipment", "executor.look_up.after", CARRIER_ANSWERS),
];

const PUT_OFF: &str =
    "a saga is put off only if its repetition cannot be paid for, which takes hundreds of orders";
const LEFT_BEHIND: &str =
    "a row is due if another process died with it, and each situation has one process that dies";
const CARRIER_ANSWERS: &str =
    "a call is looked up if it got no answer, and the carrier answers in every situation";

/// The points of a worker with external calls. `insert` accepts, `settle` records the outcome.
const EXTERNAL: [&str; 23] = [
    "rows.insert.before",
    "rows.insert.after",
    "rows.settle.before",
    "rows.settle.after",
    "rows.lock.before",
    "rows.lock.after",
    "rows.get.before",
    "rows.get.after",
    "rows.due.after",
    "rows.write.before",
    "rows.write.after",
    "rows.commit.before",
    "rows.commit.after",
    "executor.execute.before",
    "executor.execute.after",
    "executor.undo.before",
    "executor.undo.after",
    "executor.look_up.before",
    "executor.look_up.after",
    "sink.send.before",
    "sink.send.after",
    "source.commit.before",
    "source.commit.after",
];
