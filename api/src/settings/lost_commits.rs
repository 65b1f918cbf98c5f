//! What happens once the database has lost commits.

use amends_postgres::sentinel::OnLostCommits;
use serde::Deserialize;

/// The setting `on_lost_commits`.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LostCommits {
    NextEpoch,
    Stop,
}

impl LostCommits {
    /// Returns its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NextEpoch => "next_epoch",
            Self::Stop => "stop",
        }
    }
}

impl From<LostCommits> for OnLostCommits {
    fn from(setting: LostCommits) -> Self {
        match setting {
            LostCommits::NextEpoch => Self::NextEpoch,
            LostCommits::Stop => Self::Stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{services, settings::Settings};

    #[test]
    fn the_next_epoch_begins_unless_the_setting_says_stop_and_anything_else_is_refused() {
        let read = |value: &str| {
            let flag = ("on_lost_commits".to_owned(), value.to_owned());
            Settings::read(&services::names(), None, &[flag])
        };
        let usual = Settings::read(&services::names(), None, &[]).unwrap();
        assert_eq!(usual.on_lost_commits.as_str(), "next_epoch");
        assert_eq!(read("stop").unwrap().on_lost_commits.as_str(), "stop");
        let error = read("ignore").unwrap_err().to_string();
        assert!(error.contains("on_lost_commits") && !error.contains('\n'), "{error}");
    }
}
