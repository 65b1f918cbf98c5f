//! Keys and their rotation: the reply key of the deployment, and the command keys of each participant.
//!
//! There are three of each: the *current* key signs; the *previous* and the *next* key are accepted as well. A rotation
//! draws a new next key and moves the others up. So a running program already accepts signatures of the new current
//! key, and its own signatures stay accepted until it is restarted.

use std::collections::HashMap;

use amends_pool::{Connection, Pool, Transaction};
use amends_protocol::{CommandKey, KeyError};

use crate::deployment::Error;

/// The present use of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It signed before the last rotation, and is still accepted.
    Previous,
    /// It signs.
    Current,
    /// It will sign after the next rotation, and is already accepted.
    Next,
}

impl Stage {
    const ALL: [Stage; 3] = [Stage::Previous, Stage::Current, Stage::Next];

    /// Returns the word stored in the tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Previous => "previous",
            Stage::Current => "current",
            Stage::Next => "next",
        }
    }

    fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == word)
    }
}

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// The present use.
    pub stage: Stage,
    /// The key's id in the header of a signature.
    pub id: String,
    /// 64 hexadecimal digits.
    pub hex: String,
}

/// Whether to rotate keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// Create only the keys that are missing.
    Keep,
    /// The next key becomes the current one.
    Rotate,
}

/// Returns the keys after these; missing ones are drawn.
fn following(
    keys: Vec<StoredKey>,
    rotation: Rotation,
    mut draw: impl FnMut() -> StoredKey,
) -> Vec<StoredKey> {
    let mut by_stage: HashMap<Stage, StoredKey> = keys.into_iter().map(|key| (key.stage, key)).collect();
    if rotation == Rotation::Rotate
        && let Some(next) = by_stage.remove(&Stage::Next)
    {
        let current = by_stage.insert(Stage::Current, next);
        by_stage.extend(current.map(|key| (Stage::Previous, key)));
    }
    for stage in [Stage::Current, Stage::Next] {
        by_stage.entry(stage).or_insert_with(&mut draw);
    }
    let staged = |stage| Some(StoredKey { stage, ..by_stage.remove(&stage)? });
    Stage::ALL.into_iter().filter_map(staged).collect()
}

/// An uncommitted change of a participant's command keys: the participant's own database must receive them first.
pub struct Change {
    tx: Transaction,
    participant: String,
    /// The keys after the change.
    pub keys: Vec<StoredKey>,
}

/// Prepares an update of a participant's command keys; run as the database's owner.
///
/// # Errors
/// [`Error`].
pub async fn change_command_keys(
    pool: impl Into<Pool>,
    participant: &str,
    rotation: Rotation,
    draw: impl FnMut() -> StoredKey,
) -> Result<Change, Error> {
    let mut tx = pool.into().begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('command_keys'))").execute(&mut *tx).await?;
    let keys = following(command_keys(&mut tx, participant).await?, rotation, draw);
    Ok(Change { tx, participant: participant.to_owned(), keys })
}

impl Change {
    /// Commits the change.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn commit(mut self) -> Result<(), Error> {
        sqlx::query("DELETE FROM command_keys WHERE participant = $1")
            .bind(&self.participant)
            .execute(&mut *self.tx)
            .await?;
        for StoredKey { stage, id, hex } in &self.keys {
            sqlx::query("INSERT INTO command_keys (participant, stage, id, key) VALUES ($1, $2, $3, $4)")
                .bind(&self.participant)
                .bind(stage.as_str())
                .bind(id)
                .bind(hex)
                .execute(&mut *self.tx)
                .await?;
        }
        Ok(self.tx.commit().await?)
    }
}

async fn command_keys(db: &mut Connection, participant: &str) -> Result<Vec<StoredKey>, Error> {
    let rows: Vec<(String, String, String)> =
        sqlx::query_as("SELECT stage, id, key FROM command_keys WHERE participant = $1")
            .bind(participant)
            .fetch_all(db)
            .await?;
    let key =
        |(stage, id, hex): (String, String, String)| Some(StoredKey { stage: Stage::of(&stage)?, id, hex });
    Ok(rows.into_iter().filter_map(key).collect())
}

/// Reads the keys that sign commands, by participant.
///
/// # Errors
/// [`Error`].
pub async fn signing_keys(pool: impl Into<Pool>) -> Result<HashMap<String, CommandKey>, Error> {
    let rows: Vec<(String, String, String)> =
        sqlx::query_as("SELECT participant, id, key FROM command_keys WHERE stage = 'current'")
            .fetch_all(&pool.into())
            .await?;
    let key = |(participant, id, hex): (String, String, String)| {
        Ok::<_, KeyError>((participant, CommandKey::from_hex(id, &hex)?))
    };
    Ok(rows.into_iter().map(key).collect::<Result<_, _>>()?)
}

/// Rotates the reply keys, or creates those that are missing; run as the database's owner.
///
/// # Errors
/// [`Error`].
pub async fn change_reply_key(
    pool: impl Into<Pool>,
    rotation: Rotation,
    new_key_hex: &str,
) -> Result<(), Error> {
    amends_protocol::TokenKey::from_hex(new_key_hex)?;
    let rotate = rotation == Rotation::Rotate;
    sqlx::query(
        "UPDATE deployment AS d
         SET previous_reply_key = CASE WHEN r.rotate THEN d.reply_key ELSE d.previous_reply_key END,
             reply_key = CASE WHEN r.rotate THEN d.next_reply_key ELSE d.reply_key END, next_reply_key = $2
         FROM (SELECT $1 AND next_reply_key IS NOT NULL AS rotate FROM deployment) AS r
         WHERE r.rotate OR d.next_reply_key IS NULL",
    )
    .bind(rotate)
    .bind(new_key_hex)
    .execute(&pool.into())
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn() -> impl FnMut() -> StoredKey {
        let mut count = 0;
        move || {
            count += 1;
            StoredKey { stage: Stage::Next, id: format!("k{count}"), hex: String::new() }
        }
    }

    fn ids(keys: &[StoredKey]) -> Vec<(Stage, &str)> {
        keys.iter().map(|key| (key.stage, key.id.as_str())).collect()
    }

    #[test]
    fn what_is_signed_with_next_is_accepted_a_rotation_before_and_a_rotation_after() {
        let mut draw = drawn();
        let first = following(Vec::new(), Rotation::Keep, &mut draw);
        assert_eq!(ids(&first), [(Stage::Current, "k1"), (Stage::Next, "k2")]);
        assert_eq!(following(first.clone(), Rotation::Keep, &mut draw), first, "nothing is missing");
        let second = following(first, Rotation::Rotate, &mut draw);
        assert_eq!(ids(&second), [(Stage::Previous, "k1"), (Stage::Current, "k2"), (Stage::Next, "k3")]);
        let third = following(second, Rotation::Rotate, &mut draw);
        assert_eq!(ids(&third), [(Stage::Previous, "k2"), (Stage::Current, "k3"), (Stage::Next, "k4")]);
    }
}
