//! amends-workflows
