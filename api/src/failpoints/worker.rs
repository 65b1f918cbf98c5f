//! The workers' ports: rows and executors.

use std::{collections::HashSet, time::Duration};

use amends_protocol::{Command, Reply};
use amends_worker::{
    Answer, Due, ExternalExecutor, Locked, Locks, LookUp, Port, Rows, TransactionalExecutor, Void, Work,
    row::CommandRow, store::Error,
};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Failing;

impl<R: Rows> Rows for Failing<R> {
    type Tx = R::Tx;

    async fn now(&self) -> Result<DateTime<Utc>, Error> {
        self.port.now().await
    }

    async fn insert(&self, rows: &[CommandRow]) -> Result<HashSet<Uuid>, Error> {
        self.before("insert");
        let inserted = self.port.insert(rows).await;
        self.after("insert");
        inserted
    }

    async fn settle(&self, owner: Uuid, rows: &[CommandRow]) -> Result<HashSet<Uuid>, Error> {
        self.before("settle");
        let settled = self.port.settle(owner, rows).await;
        self.after("settle");
        settled
    }

    async fn insert_in(&self, tx: &mut R::Tx, rows: &[CommandRow]) -> Result<bool, Error> {
        self.before("insert_in");
        let inserted = self.port.insert_in(tx, rows).await;
        self.after("insert_in");
        inserted
    }

    async fn begin(&self) -> Result<R::Tx, Error> {
        self.port.begin().await
    }

    async fn lock(&self, tx: &mut R::Tx, commands: &[&Command], locks: Locks) -> Result<Locked, Error> {
        self.before("lock");
        let locked = self.port.lock(tx, commands, locks).await;
        self.after("lock");
        locked
    }

    async fn get(&self, tx: &mut R::Tx, keys: &[Uuid], locks: Locks) -> Result<Locked, Error> {
        self.before("get");
        let found = self.port.get(tx, keys, locks).await;
        self.after("get");
        found
    }

    async fn due(&self, tx: &mut R::Tx, which: Due, limit: usize) -> Result<Locked, Error> {
        let due = self.port.due(tx, which, limit).await;
        // The worker scans all the time: only a scan that finds something counts as a point.
        if due.as_ref().is_ok_and(|due| !due.rows.is_empty()) {
            self.after("due");
        }
        due
    }

    async fn write(&self, tx: &mut R::Tx, rows: &[CommandRow]) -> Result<(), Error> {
        self.before("write");
        let written = self.port.write(tx, rows).await;
        self.after("write");
        written
    }

    async fn remove(&self, tx: &mut R::Tx, keys: &[Uuid]) -> Result<(), Error> {
        self.port.remove(tx, keys).await
    }

    async fn commit(&self, tx: R::Tx) -> Result<(), Error> {
        self.before("commit");
        let committed = self.port.commit(tx).await;
        self.after("commit");
        committed
    }

    async fn renew(&self, owner: Uuid, keys: &[Uuid], lease: Duration) -> Result<(), Error> {
        self.before("renew");
        let renewed = self.port.renew(owner, keys, lease).await;
        self.after("renew");
        renewed
    }

    async fn ping(&self) -> Result<(), Error> {
        self.port.ping().await
    }
}

impl<Tx: Send, E: TransactionalExecutor<Tx>> TransactionalExecutor<Tx> for Failing<E> {
    async fn run(&self, tx: &mut Tx, work: &[Work]) -> Result<Vec<Answer>, Error> {
        self.before("run");
        let answers = self.port.run(tx, work).await;
        self.after("run");
        answers
    }

    async fn run_past(&self, tx: &mut Tx, work: &[Work]) -> Result<Vec<Answer>, Error> {
        self.port.run_past(tx, work).await
    }

    async fn committed(&self, replies: &[&Reply]) {
        self.port.committed(replies).await;
    }
}

impl<E: ExternalExecutor> ExternalExecutor for Failing<E> {
    fn port(&self) -> Port {
        self.port.port()
    }

    async fn execute(&self, work: &Work) -> Answer {
        self.before("execute");
        let answer = self.port.execute(work).await;
        self.after("execute");
        answer
    }

    async fn undo(&self, work: &Work) -> Answer {
        self.before("undo");
        let answer = self.port.undo(work).await;
        self.after("undo");
        answer
    }

    async fn look_up(&self, work: &Work) -> LookUp {
        self.before("look_up");
        let found = self.port.look_up(work).await;
        self.after("look_up");
        found
    }

    async fn void(&self, work: &Work) -> Void {
        self.before("void");
        let voided = self.port.void(work).await;
        self.after("void");
        voided
    }
}
