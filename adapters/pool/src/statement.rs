//! A statement on its way to the server: it is named in logs if it turns out to be slow.

use sqlx::{
    Execute, Postgres, SqlStr,
    error::BoxDynError,
    postgres::{PgArguments, PgStatement},
};

/// The longest name of a statement.
const NAME_LONGEST: usize = 80;

/// A statement with its arguments.
pub(crate) struct Statement {
    sql: SqlStr,
    arguments: Option<Result<Option<PgArguments>, BoxDynError>>,
    is_persistent: bool,
}

impl Statement {
    /// Takes a query apart.
    pub(crate) fn of<'q>(mut query: impl Execute<'q, Postgres>) -> Self {
        let arguments = Some(query.take_arguments());
        Self { arguments, is_persistent: query.persistent(), sql: query.sql() }
    }

    /// Returns its text.
    pub(crate) fn text(&self) -> SqlStr {
        self.sql.clone()
    }
}

impl Execute<'_, Postgres> for Statement {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&PgStatement> {
        None
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.arguments.take().unwrap_or(Ok(None))
    }

    fn persistent(&self) -> bool {
        self.is_persistent
    }
}

/// Returns what a statement does and with what: `UPDATE sagas`, `SELECT place_orders`. Nothing of its values is in it.
pub(crate) fn name(sql: &str) -> String {
    let mut words =
        sql.split(|c: char| c.is_whitespace() || "(),;".contains(c)).filter(|word| !word.is_empty());
    let Some(verb) = words.next() else { return "an empty statement".to_owned() };
    let is_word = |word: &&str| word.chars().all(|c| c.is_ascii_alphanumeric() || "_.".contains(c));
    // After a WITH, or a list of columns, the first table says more than the next word.
    let first = sql.split_whitespace().nth(1).unwrap_or_default();
    let of_call = first.split_once('(').map(|(function, _)| function).filter(|name| !name.is_empty());
    let what = match of_call.filter(|function| is_word(function)) {
        Some(function) if verb.eq_ignore_ascii_case("SELECT") && !AGGREGATES.contains(&function) => {
            Some(function)
        }
        _ if verb.eq_ignore_ascii_case("UPDATE") => words.next(),
        _ => {
            let is_before_table =
                |word: &&str| ["FROM", "INTO", "UPDATE"].iter().any(|key| word.eq_ignore_ascii_case(key));
            words
                .by_ref()
                .find(is_before_table)
                .and_then(|_| words.find(|word| !word.eq_ignore_ascii_case("SELECT")))
        }
    };
    let name = match what.filter(is_word) {
        Some(what) => format!("{} {what}", verb.to_ascii_uppercase()),
        None => verb.to_ascii_uppercase(),
    };
    name.chars().take(NAME_LONGEST).collect()
}

/// Functions that say nothing about what a statement does.
const AGGREGATES: [&str; 8] = ["count", "sum", "min", "max", "COALESCE", "coalesce", "array_agg", "EXISTS"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_named_by_what_it_does_and_to_which_table_or_function() {
        for (sql, expected) in [
            ("UPDATE sagas SET stuck_at = now() WHERE id = $1", "UPDATE sagas"),
            (
                "INSERT INTO notifications (id, order_id) SELECT n.id FROM unnest($1) AS n",
                "INSERT notifications",
            ),
            ("SELECT place_orders($1, $2)", "SELECT place_orders"),
            ("SELECT count(*) FROM sagas AS s WHERE s.live", "SELECT sagas"),
            ("SELECT * FROM commit_sagas($1, $2)", "SELECT commit_sagas"),
            (
                "WITH looked_at AS MATERIALIZED (\n  SELECT id, live FROM sagas) SELECT 1 FROM looked_at",
                "WITH sagas",
            ),
            ("DELETE FROM commands WHERE id < $1", "DELETE commands"),
            ("COMMIT", "COMMIT"),
            ("select 1", "SELECT"),
            ("SELECT s FROM (SELECT id FROM orders) AS s", "SELECT id"),
            ("", "an empty statement"),
        ] {
            assert_eq!(name(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_name_has_nothing_of_values() {
        assert_eq!(name("SELECT 'secret', 'of somebody'"), "SELECT");
        assert_eq!(name("ALTER ROLE amends_engine PASSWORD 'secret'"), "ALTER");
        assert_eq!(name("INSERT INTO 'secret'"), "INSERT");
    }
}
