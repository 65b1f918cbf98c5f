//! The points: before and after each call of each port. A call that is made all the time (a poll, a ping) has
//! only the point after it has found something.

/// A role, as on the command line, and its points.
pub const POINTS: [(&[&str], &[&str]); 6] = [
    (
        &["engine"],
        &[
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
            "rows.insert_in.before", "rows.insert_in.after", "rows.lock.before",
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

/// Of a worker that calls outside. `insert` accepts, `settle` writes the outcome down.
const EXTERNAL: [&str; 23] = [
    "rows.insert.before", "rows.insert.after", "rows.settle.before", "rows.settle.after", "rows.lock.before",
    "rows.lock.after", "rows.get.before", "rows.get.after", "rows.due.after", "rows.write.before",
    "rows.write.after", "rows.commit.before", "rows.commit.after", "executor.execute.before",
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
