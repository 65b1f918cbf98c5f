//! Tokens for an api that wants them.

use std::{fs, path::PathBuf};

use amends_api::auth::{OwnKey, Role};
use anyhow::{Context, Result};
use tempfile::TempDir;

/// Longer than any run.
const LIFE_SECONDS: u64 = 7 * 24 * 60 * 60;

/// A key that signs tokens, and its public half in a file.
pub struct Tokens {
    key: OwnKey,
    public: PathBuf,
    _directory: TempDir,
}

impl Tokens {
    /// Draws a key.
    pub fn draw() -> Result<Self> {
        let key = OwnKey::from_pem(OwnKey::draw()?.as_bytes())?;
        let directory = tempfile::tempdir().context("a directory for the key")?;
        let public = directory.path().join("token-key.pem");
        fs::write(&public, key.public_pem()).with_context(|| format!("writing {}", public.display()))?;
        Ok(Self { key, public, _directory: directory })
    }

    /// The settings with which an api judges tokens by this key.
    pub fn settings(&self) -> Result<Vec<(&'static str, String)>> {
        let expected = OwnKey::expected();
        let file = self.public.to_str().context("the key's path")?.to_owned();
        Ok(vec![
            ("no_auth", "false".to_owned()),
            ("jwt_key_file", file),
            ("jwt_issuer", expected.issuer),
            ("jwt_audience", expected.audience),
        ])
    }

    /// The token of a shop's backend.
    pub fn storefront(&self) -> Result<String> {
        Ok(self.key.mint("storefront", &[Role::Storefront], LIFE_SECONDS)?)
    }
}
