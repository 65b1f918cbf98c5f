//! Keys and how one follows another: the reply key of the deployment, and the command keys of each participant.
//!
//! There are three of each: the *current* one signs; the *previous* one and the *next* one are accepted as well. A
//! rotation draws a new next key and moves the others up. So whoever runs already accepts what others begin to sign
//! with, and goes on being accepted until it is started again.

use std::collections::HashMap;

use amends_pool::{Connection, Pool, Transaction};
use amends_protocol::{CommandKey, KeyError};

use crate::deployment::Error;

/// What a key is used for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Signed with before the last rotation; still accepted.
    Previous,
    /// Signed with.
    Current,
    /// Will be signed with after the next rotation; accepted already.
    Next,
}

impl Stage {
    const ALL: [Stage; 3] = [Stage::Previous, Stage::Current, Stage::Next];

    /// The word in the tables.
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
    /// What it is used for now.
    pub stage: Stage,
    /// Which it is, in the header of a signature.
    pub id: String,
    /// 64 hexadecimal digits.
    pub hex: String,
}

/// Whether keys are moved up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// Only what is missing is made.
    Keep,
    /// The next key becomes the current one.
    Rotate,
}

/// The keys that follow these: what is missing is drawn.
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

/// A change of a participant's command keys that is not yet committed: its own database must have them first.
pub struct Change {
    tx: Transaction,
    participant: String,
    /// The keys as they will be.
    pub keys: Vec<StoredKey>,
}

/// Begins to bring a participant's command keys up to date; as the database's owner.
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
    /// Commits it.
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

/// The keys that commands are signed with, by participant.
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

/// Moves the reply key up, or makes what is missing; as the database's owner.
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
