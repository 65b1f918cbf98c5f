//! The worker SDK's ports on this database: its rows, and the inventory's ledger.

use super::*;

impl Rows for SimRows {
    type Tx = SimTx;

    async fn begin(&self) -> Result<SimTx, Error> {
        let database = self.database;
        let id = {
            let mut state = self.handle.state();
            let db = &mut state.databases[database];
            db.transactions += 1;
            let id = db.transactions;
            db.open.insert(id, Vec::new());
            id
        };
        let open = Open { world: self.handle.world.clone(), database, id };
        self.ask("begin", |_| ()).await?;
        Ok(SimTx { rows: self.clone(), open, writes: Vec::new(), books: None })
    }

    async fn now(&self) -> Result<DateTime<Utc>, Error> {
        let state = self.handle.state();
        Ok(state.instant_at(state.databases[self.database].skew))
    }

    async fn insert(&self, rows: &[CommandRow]) -> Result<HashSet<Uuid>, Error> {
        let (database, process, rows) = (self.database, self.handle.process, rows.to_vec());
        self.alone("insert", rows.iter().map(|row| row.key).collect(), move |s| {
            let mut inserted = HashSet::new();
            for row in rows.clone() {
                if !s.databases[database].rows.contains_key(&row.key) {
                    s.note_row(process, &row);
                    inserted.insert(row.key);
                    s.databases[database].rows.insert(row.key, row);
                }
            }
            inserted
        })
        .await
    }

    async fn insert_in(&self, tx: &mut SimTx, rows: &[CommandRow]) -> Result<bool, Error> {
        let (database, transaction) = (self.database, tx.open.id);
        let keys: Vec<Uuid> = rows.iter().map(|row| row.key).collect();
        let new = self.ask("insert", move |s| {
            let db = &mut s.databases[database];
            db.open.contains_key(&transaction)
                && !keys.iter().any(|key| db.rows.contains_key(key))
                && db.take(transaction, keys.iter().map(|key| Lock::Row(*key)).collect())
        });
        let new = new.await?;
        tx.writes.extend_from_slice(rows);
        Ok(new)
    }

    async fn settle(&self, owner: Uuid, rows: &[CommandRow]) -> Result<HashSet<Uuid>, Error> {
        if rows.is_empty() {
            return Ok(HashSet::new());
        }
        let (database, process, rows) = (self.database, self.handle.process, rows.to_vec());
        self.alone("settle", rows.iter().map(|row| row.key).collect(), move |s| {
            let mut settled = HashSet::new();
            for new in rows.clone() {
                let Some(row) = s.databases[database].rows.get_mut(&new.key) else { continue };
                let mine = row.lease.is_some_and(|l| l.owner == Some(owner));
                let same = (row.attempt, row.epoch) == (new.attempt, new.epoch);
                if row.status == Status::Started && mine && same && row.undo.is_none() && !row.unsure {
                    settled.insert(new.key);
                    row.settle(new.status, new.details);
                    let row = row.clone();
                    s.note_row(process, &row);
                }
            }
            settled
        })
        .await
    }

    async fn lock(&self, tx: &mut SimTx, commands: &[&Command], locks: Locks) -> Result<Locked, Error> {
        let keys: BTreeSet<Uuid> = commands.iter().map(|c| c.row_key()).collect();
        let keys: Vec<Uuid> = keys.into_iter().collect();
        self.get(tx, &keys, locks).await
    }

    async fn get(&self, tx: &mut SimTx, keys: &[Uuid], locks: Locks) -> Result<Locked, Error> {
        let (database, transaction, keys) = (self.database, tx.open.id, keys.to_vec());
        if locks == Locks::Wait {
            let locks = keys.iter().map(|key| Lock::Row(*key)).collect();
            return self.locked("lock", transaction, locks, move |s| read(s, database, &keys)).await;
        }
        let locked = self.ask("lock", move |s| {
            let db = &mut s.databases[database];
            let (mut mine, mut passed_over) = (Vec::new(), HashSet::new());
            for key in keys {
                if db.open.contains_key(&transaction) && db.take(transaction, vec![Lock::Row(key)]) {
                    mine.push(key);
                } else {
                    passed_over.insert(key);
                }
            }
            Locked { passed_over, ..read(s, database, &mine) }
        });
        locked.await
    }

    async fn due(&self, tx: &mut SimTx, which: Due, limit: usize) -> Result<Locked, Error> {
        let (database, transaction) = (self.database, tx.open.id);
        self.ask("due", move |s| {
            let now = s.instant_at(s.databases[database].skew);
            let db = &mut s.databases[database];
            if !db.open.contains_key(&transaction) {
                return Locked { now, ..Locked::default() };
            }
            let free = |row: &&CommandRow| {
                row.unsure == (which == Due::Unsure) && !db.locks.contains_key(&Lock::Row(row.key))
            };
            let mut due: Vec<_> = (db.rows.values().filter(free))
                .filter_map(|row| row.lease.filter(|l| l.until <= now).map(|l| (l.until, row.key)))
                .collect();
            due.sort_unstable();
            due.truncate(limit);
            let keys: Vec<Uuid> = due.into_iter().map(|(_, key)| key).collect();
            if !db.take(transaction, keys.iter().map(|key| Lock::Row(*key)).collect()) {
                return Locked { now, ..Locked::default() };
            }
            read(s, database, &keys)
        })
        .await
    }

    async fn write(&self, tx: &mut SimTx, rows: &[CommandRow]) -> Result<(), Error> {
        tx.writes.extend_from_slice(rows);
        Ok(())
    }

    async fn remove(&self, _: &mut SimTx, _: &[Uuid]) -> Result<(), Error> {
        // A row that was inserted and not written is only locked here.
        Ok(())
    }

    async fn commit(&self, tx: SimTx) -> Result<(), Error> {
        let (database, process) = (self.database, self.handle.process);
        let SimTx { open, mut writes, books, .. } = tx;
        // The worker writes rows in arbitrary order; a trace needs a fixed one.
        writes.sort_by_key(|row| row.key);
        let commit = move |s: &mut WorldState| {
            // The locks travel with the request, whatever happens to its sender.
            let open = open;
            let id = open.id;
            if !s.databases[database].open.contains_key(&id) {
                return false;
            }
            writes.iter().for_each(|row| s.note_row(process, row));
            let db = &mut s.databases[database];
            db.rows.extend(writes.into_iter().map(|row| (row.key, row)));
            if let Some(books) = books {
                db.stock.extend(books.stock);
                db.reservations.extend(books.reservations);
                db.moves.extend(books.moves);
                db.restocks.extend(books.restocks);
            }
            db.release(id);
            db.watchers.wake();
            true
        };
        let answer = self.handle.ask(Site::Rows(database), Some(Fault::RowsAnswerLost), "commit", commit);
        match answer.await.map_err(away)? {
            true => Ok(()),
            false => Err(Error::Unavailable("the transaction is gone".to_owned())),
        }
    }

    async fn renew(&self, owner: Uuid, keys: &[Uuid], lease: Duration) -> Result<(), Error> {
        let (database, keys) = (self.database, keys.to_vec());
        self.ask("renew", move |s| {
            let until =
                s.instant_at(s.databases[database].skew) + TimeDelta::from_std(lease).unwrap_or_default();
            let db = &mut s.databases[database];
            for key in keys {
                let free = !db.locks.contains_key(&Lock::Row(key));
                if let Some(row) = db.rows.get_mut(&key).filter(|_| free)
                    && let Some(lease) = row.lease.as_mut().filter(|l| l.owner == Some(owner))
                {
                    lease.until = until;
                }
            }
        })
        .await
    }

    async fn ping(&self) -> Result<(), Error> {
        self.ask("ping", |_| ()).await
    }
}

impl Ledger for SimTx {
    async fn open(
        &mut self,
        reservations: &BTreeSet<Uuid>,
        products: BTreeSet<String>,
        _: Locks,
    ) -> Result<Books, Error> {
        let database = self.rows.database;
        let wanted = reservations.clone();
        let locks = wanted.iter().map(|key| Lock::Reservation(*key)).collect();
        let mut found = (self.rows.clone())
            .locked("reservations", self.open.id, locks, move |s| {
                let db = &s.databases[database];
                let found = wanted.iter().filter_map(|key| db.reservations.get_key_value(key));
                found.map(|(k, lines)| (*k, lines.clone())).collect::<BTreeMap<_, _>>()
            })
            .await?;
        let mut products = products;
        products.extend(found.values().flat_map(|lines| lines.keys().cloned()));
        // What this transaction has moved before is not in the tables yet.
        let before = self.books.take().unwrap_or_default();
        found.extend(before.reservations);
        let locks = products.iter().map(|product| Lock::Stock(product.clone())).collect();
        let mut stock = (self.rows.clone())
            .locked("stock", self.open.id, locks, move |s| {
                let db = &s.databases[database];
                let found = products.iter().filter_map(|product| db.stock.get_key_value(product));
                found.map(|(product, stock)| (product.clone(), *stock)).collect::<BTreeMap<_, _>>()
            })
            .await?;
        stock.extend(before.stock);
        self.books = Some(Books {
            stock: stock.clone(),
            reservations: found.clone(),
            moves: before.moves,
            restocks: before.restocks,
            ..Books::default()
        });
        Ok(Books { stock, reservations: found, ..Books::default() })
    }

    async fn returned(&mut self, reservations: &BTreeSet<Uuid>) -> Result<Returned, Error> {
        let (database, wanted) = (self.rows.database, reservations.clone());
        let of = move |s: &mut WorldState| s.databases[database].restocks.clone();
        let mut restocks = self.rows.ask("restocks", of).await?;
        // What this transaction has put back before is not in the tables yet.
        restocks.extend(self.books.iter().flat_map(|books| books.restocks.iter().cloned()));
        let mut returned = Returned::new();
        for restock in restocks.into_iter().filter(|restock| wanted.contains(&restock.reservation)) {
            *returned.entry((restock.reservation, restock.product_id)).or_default() += restock.quantity;
        }
        Ok(returned)
    }

    async fn write(&mut self, books: &Books) -> Result<(), Error> {
        let all = self.books.get_or_insert_default();
        all.stock.extend(books.stock.clone());
        all.reservations.extend(books.reservations.clone());
        all.moves.extend(books.moves.iter().cloned());
        all.restocks.extend(books.restocks.iter().cloned());
        Ok(())
    }
}
