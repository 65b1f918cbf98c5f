//! What the doctor found, as text and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Good,
    /// It could not be looked at.
    Skipped,
    /// It works, and someone should know of it.
    Warning,
    /// Something is wrong: data can be lost, or the deployment does not work.
    Wrong,
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How serious it is.
    pub grade: Grade,
    /// What was looked at: `database engine`, `topic saga.replies`.
    pub subject: String,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    /// Something is as it should be.
    pub fn good(subject: &str, found: impl Into<String>) -> Self {
        Self { grade: Grade::Good, subject: subject.to_owned(), found: found.into(), advice: None }
    }

    /// Something could not be looked at.
    pub fn skipped(subject: &str, found: impl Into<String>) -> Self {
        Self { grade: Grade::Skipped, ..Self::good(subject, found) }
    }

    /// Something works, and someone should know of it.
    pub fn warning(subject: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { grade: Grade::Warning, advice: Some(advice.into()), ..Self::good(subject, found) }
    }

    /// Something is wrong.
    pub fn wrong(subject: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { grade: Grade::Wrong, advice: Some(advice.into()), ..Self::good(subject, found) }
    }
}

/// Renders findings for a person: a line each, with what to do below it, and a summary.
pub fn as_text(findings: &[Finding]) -> String {
    let mut text = String::new();
    let width = findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or_default();
    for Finding { grade, subject, found, advice } in findings {
        let mark = match grade {
            Grade::Good => "ok     ",
            Grade::Skipped => "skipped",
            Grade::Warning => "WARNING",
            Grade::Wrong => "WRONG  ",
        };
        let _ = writeln!(text, "{mark}  {subject:width$}  {found}");
        if let Some(advice) = advice {
            let _ = writeln!(text, "         {:width$}  → {advice}", "");
        }
    }
    let count = |grade| findings.iter().filter(|finding| finding.grade == grade).count();
    let _ = writeln!(
        text,
        "{} wrong, {} warnings, {} skipped, {} ok",
        count(Grade::Wrong),
        count(Grade::Warning),
        count(Grade::Skipped),
        count(Grade::Good),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_what_to_do_is_below_it() {
        let findings = [
            Finding::good("broker", "answers"),
            Finding::wrong("database engine", "commits can be lost: fsync is off", "Set fsync = on."),
            Finding::skipped("database payment", "payment_database_url is not set"),
        ];
        insta::assert_snapshot!(as_text(&findings), @r"
        ok       broker            answers
        WRONG    database engine   commits can be lost: fsync is off
                                   → Set fsync = on.
        skipped  database payment  payment_database_url is not set
        1 wrong, 0 warnings, 1 skipped, 1 ok
        ");
    }
}
