//! Versions that a program knows, and versions that a saga requires.

use serde::{Deserialize, Serialize};

use super::{CORE_VERSION, Catalog, STATE_VERSION, Saga};

/// Returns the format of a saga's state under the given rules. Both versions rise together.
pub const fn state_version(core_version: u16) -> u16 {
    match core_version {
        0 | 1 => 1,
        _ => STATE_VERSION,
    }
}

/// What a program knows. It decides only sagas that this covers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    /// Workflows by name and version.
    pub workflows: Vec<(String, u32)>,
    /// The newest rules of the core.
    pub core_version: u16,
    /// The newest format of a row's state.
    pub state_version: u16,
}

impl Known {
    /// Returns what a program with these workflows knows.
    pub fn of(catalog: &Catalog) -> Self {
        let workflows = catalog.iter().map(|d| (d.name.to_owned(), d.version)).collect();
        Self { workflows, core_version: CORE_VERSION, state_version: STATE_VERSION }
    }

    /// Returns what both programs know.
    pub fn common(mut self, other: &Known) -> Known {
        self.workflows.retain(|(name, version)| other.knows(name, *version));
        self.core_version = self.core_version.min(other.core_version);
        self.state_version = self.state_version.min(other.state_version);
        self
    }

    /// Returns whether this covers the requirements.
    pub fn covers(&self, requires: &Requires) -> bool {
        self.core_version >= requires.core_version
            && self.state_version >= requires.state_version
            && self.knows(&requires.workflow, requires.workflow_version)
    }

    /// Returns whether the workflow is known in this version.
    pub fn knows(&self, workflow: &str, version: u32) -> bool {
        self.workflows.iter().any(|(name, v)| name == workflow && *v == version)
    }
}

/// What a program must know to decide a saga.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Requires {
    /// Name of its workflow.
    pub workflow: String,
    /// Version of its workflow.
    pub workflow_version: u32,
    /// Version of the rules that last decided it.
    pub core_version: u16,
    /// The format of its state.
    pub state_version: u16,
}

impl Requires {
    /// Returns the requirements of a saga whose row this program has read.
    pub fn of(saga: &Saga) -> Self {
        Self {
            workflow: saga.workflow.clone(),
            workflow_version: saga.workflow_version,
            core_version: saga.core_version,
            state_version: state_version(saga.core_version),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_programs_know_is_what_each_of_them_knows() {
        let known = |versions: &[u32], core_version| Known {
            workflows: versions.iter().map(|version| ("stay".to_owned(), *version)).collect(),
            core_version,
            state_version: core_version,
        };
        assert_eq!(known(&[1, 2], 2).common(&known(&[2, 3], 1)), known(&[2], 1));
        assert_eq!(known(&[1], 1).common(&known(&[1, 2], 2)), known(&[1], 1));
    }

    #[test]
    fn a_saga_is_for_programs_that_know_its_workflow_its_rules_and_its_format() {
        let known = Known { workflows: vec![("stay".to_owned(), 1)], core_version: 2, state_version: 1 };
        let stay =
            Requires { workflow: "stay".to_owned(), workflow_version: 1, core_version: 2, state_version: 1 };
        assert!(known.covers(&stay));
        assert!(!known.covers(&Requires { workflow_version: 2, ..stay.clone() }));
        assert!(!known.covers(&Requires { workflow: "return".to_owned(), ..stay.clone() }));
        assert!(!known.covers(&Requires { core_version: 3, ..stay.clone() }));
        assert!(!known.covers(&Requires { state_version: 2, ..stay }));
    }
}
