//! What sagas that have not ended hold in the outside world, added up over all of them, for metrics.

use std::collections::BTreeMap;

use amends_engine::core::SagaState;
use amends_protocol::Exposure;
use serde::Deserialize;
use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use crate::{
    Error,
    admin::{OPEN, STATE, state_of},
    error,
    upkeep::{Upkeep, Walk},
};

/// Number of sagas whose state one [`Upkeep::add_up_some`] reads.
pub const EXPOSURE_LOOK: u32 = 1_000;

/// Sums so far, by state and unit. A saga that changes meanwhile counts as it was when it was read.
#[derive(Debug, Default)]
pub struct ExposureSurvey {
    walk: Walk,
    /// A home was read in this round.
    has_answers: bool,
    sums: BTreeMap<(String, String), i64>,
}

/// What sagas in one state hold in one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The state of the sagas. An ended one holds something while an effect that was discovered late is undone.
    pub state: SagaState,
    /// The unit: of money its currency.
    pub unit: String,
    /// The amount.
    pub amount: i64,
}

/// The part of a saga's state that says what it holds. It is the same in every format so far.
#[derive(Deserialize)]
struct Progress {
    commands: Vec<Command>,
}

#[derive(Deserialize)]
struct Command {
    #[serde(default)]
    held: Vec<Exposure>,
}

/// A saga's id, state, and the JSON that only the core reads.
#[derive(FromRow)]
struct Row {
    id: Uuid,
    state: String,
    progress: String,
}

impl Upkeep {
    /// Reads the next [`EXPOSURE_LOOK`] sagas that have not ended, and adds up what they hold of this kind; returns the
    /// sums at the end of a round. The units of the kind must be few: currencies, for example. A home that fails, of
    /// several, is passed over, and ends the call; the sums are then those of the others, and a round without any home has
    /// none.
    ///
    /// # Errors
    /// That of a database with one home; the sums so far are kept.
    pub async fn add_up_some(
        &self,
        survey: &mut ExposureSurvey,
        kind: &str,
    ) -> Result<Option<Vec<Held>>, Error> {
        let mut looked_at = 0;
        while looked_at < EXPOSURE_LOOK {
            let answer = self.add_up_home(EXPOSURE_LOOK - looked_at, survey, kind).await;
            let answer = survey.walk.or_pass_over(self.database.homes, answer)?;
            survey.has_answers |= answer.is_some();
            looked_at += answer.unwrap_or(EXPOSURE_LOOK);
            if survey.walk.is_at_start() {
                let ExposureSurvey { has_answers, sums, .. } = std::mem::take(survey);
                if !has_answers {
                    return Ok(None);
                }
                let held = sums.into_iter().filter_map(|((state, unit), amount)| {
                    Some(Held { state: state_of(&state)?, unit, amount })
                });
                return Ok(Some(held.collect()));
            }
        }
        Ok(None)
    }

    /// Reads the next sagas of the walk's home, at most `look`; returns how many.
    async fn add_up_home(&self, look: u32, survey: &mut ExposureSurvey, kind: &str) -> Result<u32, Error> {
        let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT s.id, {STATE} AS state, s.state AS progress FROM sagas AS s
             WHERE ($3::int2 IS NULL OR s.home = $3) AND {OPEN} AND s.id > $1 ORDER BY s.id LIMIT $2"
        )))
        .bind(survey.walk.after)
        .bind(i64::from(look))
        .bind(survey.walk.home)
        .fetch_all(&self.database.pool)
        .await
        .map_err(error::of)?;
        let (looked_at, last) = (u32::try_from(rows.len()).unwrap_or(look), rows.last().map(|row| row.id));
        for Row { state, progress, .. } in rows {
            // Whether a row is damaged is for those who decide about its saga to find.
            let Ok(progress) = serde_json::from_str::<Progress>(&progress) else { continue };
            for held in progress.commands.into_iter().flat_map(|command| command.held) {
                if held.kind == kind {
                    let sum = survey.sums.entry((state.clone(), held.unit)).or_default();
                    *sum = sum.saturating_add(held.amount);
                }
            }
        }
        survey.walk.go_on(self.database.homes, last.filter(|_| looked_at >= look));
        Ok(looked_at)
    }
}
