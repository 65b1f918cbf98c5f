//! Properties of the whole deployment: one row, created by `amends migrate`.

use amends_pool::Pool;
use amends_protocol::TokenKey;
use sqlx::PgExecutor;

use crate::{Homes, columns::int};

/// Properties of the whole deployment.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The epoch: a greater one begins whenever the database was restored to an earlier state.
    pub epoch: u32,
    /// Number of homes.
    pub homes: Homes,
    /// Key of the reply tokens.
    pub key: TokenKey,
    /// Commits were lost, and no program shall start before `amends restore` was run.
    pub is_suspended: bool,
}

/// Why the deployment's row cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `amends migrate` has not completed.
    #[error("the database knows nothing of a deployment: run `amends migrate`")]
    Missing,
    /// The stored key is malformed.
    #[error("the stored reply key is damaged: {0}")]
    Key(#[from] amends_protocol::KeyError),
    /// The number of homes never changes.
    #[error(
        "the database was made with {made} home(s) and cannot have {asked}: see the settings distributed and homes"
    )]
    OtherHomes {
        /// Its homes.
        made: u16,
        /// The homes that it should have.
        asked: u16,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Reads the deployment's row.
///
/// # Errors
/// [`Error`].
pub async fn deployment(pool: &Pool) -> Result<Deployment, Error> {
    type DeploymentRow = (i32, i16, bool, String, Option<String>, Option<String>);
    let row: Option<DeploymentRow> = sqlx::query_as(
        "SELECT epoch, homes, is_suspended, reply_key, previous_reply_key, next_reply_key FROM deployment",
    )
    .fetch_optional(pool)
    .await?;
    let (epoch, homes, is_suspended, key, previous, next) = row.ok_or(Error::Missing)?;
    let mut key = TokenKey::from_hex(&key)?;
    for other in [previous, next].into_iter().flatten() {
        key = key.accepting(TokenKey::from_hex(&other)?);
    }
    let homes = u16::try_from(homes).ok().and_then(Homes::new).unwrap_or(Homes::ONE);
    Ok(Deployment { epoch: u32::try_from(epoch).unwrap_or_default(), homes, key, is_suspended })
}

/// Reads the present epoch.
pub(crate) async fn epoch(from: impl PgExecutor<'_>) -> Result<u32, sqlx::Error> {
    let epoch: Option<i32> = sqlx::query_scalar("SELECT epoch FROM deployment").fetch_optional(from).await?;
    Ok(epoch.and_then(|epoch| u32::try_from(epoch).ok()).unwrap_or_default())
}

/// Begins the next epoch after the database was restored to an earlier state, and returns it; run as the database's
/// owner. It waits for writes of the epoch before that are not committed; a program that was started in it writes nothing from
/// then on.
///
/// # Errors
/// [`Error::Missing`], or the database's: writes have not ended in time.
pub async fn raise_epoch(pool: impl Into<Pool>) -> Result<u32, Error> {
    let pool: &Pool = &pool.into();
    let raised: Option<i32> = sqlx::query_scalar("SELECT raise_epoch()").fetch_one(pool).await?;
    Ok(raised.ok_or(Error::Missing)?.unsigned_abs())
}

/// The same, and the epoch is at least this one. A database that was restored to a moment before an earlier restore does
/// not know the epochs that were begun since, and none may be begun twice.
///
/// # Errors
/// [`Error::Missing`], or the database's: writes have not ended in time.
pub async fn raise_epoch_to(pool: impl Into<Pool>, least: u32) -> Result<u32, Error> {
    let pool: &Pool = &pool.into();
    let mut transaction = pool.begin().await?;
    let raised: Option<i32> = sqlx::query_scalar("SELECT raise_epoch()").fetch_one(&mut *transaction).await?;
    raised.ok_or(Error::Missing)?;
    let epoch: i32 = sqlx::query_scalar("UPDATE deployment SET epoch = GREATEST(epoch, $1) RETURNING epoch")
        .bind(int(least))
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(epoch.unsigned_abs())
}

/// Checks that a database that was migrated before was made with this number of homes; run as the database's owner. A
/// migration that ended early may have distributed it, and not yet recorded its homes.
///
/// # Errors
/// [`Error::OtherHomes`], or the database's.
pub async fn check_homes(pool: impl Into<Pool>, homes: Homes) -> Result<(), Error> {
    let pool = &pool.into();
    let made = match recorded_homes(pool).await? {
        Some(recorded) => Some(recorded),
        None => distributed_homes(pool).await?,
    };
    match made.filter(|made| *made != homes.count()) {
        Some(made) => Err(Error::OtherHomes { made, asked: homes.count() }),
        None => Ok(()),
    }
}

/// Reads the number of homes from the deployment's row.
async fn recorded_homes(pool: &Pool) -> Result<Option<u16>, sqlx::Error> {
    let has_homes = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('deployment') AND attname = 'homes')";
    let has_homes: bool = sqlx::query_scalar(has_homes).fetch_one(pool).await?;
    if !has_homes {
        return Ok(None);
    }
    let recorded: Option<i16> =
        sqlx::query_scalar("SELECT homes FROM deployment").fetch_optional(pool).await?;
    Ok(recorded.map(i16::unsigned_abs))
}

/// Counts the homes by which the database is distributed.
async fn distributed_homes(pool: &Pool) -> Result<Option<u16>, sqlx::Error> {
    // What is distributed before `sagas` is made anew by the next migration.
    for exists in [
        "SELECT to_regclass('pg_dist_partition') IS NOT NULL",
        "SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = to_regclass('sagas'))",
    ] {
        let exists: bool = sqlx::query_scalar(exists).fetch_one(pool).await?;
        if !exists {
            return Ok(None);
        }
    }
    let count = "SELECT count(DISTINCT home)::int2 FROM slot_positions";
    let count: i16 = sqlx::query_scalar(count).fetch_one(pool).await?;
    Ok(Some(count.unsigned_abs()))
}

/// Inserts the deployment's row with this key (64 hexadecimal digits) and this number of homes unless it exists; run as
/// the database's owner.
///
/// # Errors
/// [`Error`].
pub async fn ensure_deployment(
    pool: impl Into<Pool>,
    new_key_hex: &str,
    homes: Homes,
) -> Result<Deployment, Error> {
    let pool = &pool.into();
    TokenKey::from_hex(new_key_hex)?;
    sqlx::query("INSERT INTO deployment (reply_key, homes) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(new_key_hex)
        .bind(homes.count() as i16)
        .execute(pool)
        .await?;
    deployment(pool).await
}
