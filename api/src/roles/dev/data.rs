//! The directory in which `amends dev` keeps its data: which files in it are ours.
//!
//! ```text
//! <directory>/amends-data   the mark: all of this was made by `amends dev`
//!             secret        the roles' passwords are derived from it
//!             token-key.pem the key that signs tokens
//!             postgres/     the private cluster
//! ```
//!
//! A directory that contained something else before is not marked as a whole; the mark is then in `postgres/`. Only
//! what is listed here is ever removed.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::auth::OwnKey;

const DATA_MARK: &str = "amends-data";
const MARK_TEXT: &str = "made by `amends dev`\n";
const SECRET: &str = "secret";
const TOKEN_KEY: &str = "token-key.pem";
const POSTGRES: &str = "postgres";
/// Length of the secret in characters: 32 bytes in hexadecimal.
const SECRET_LENGTH: usize = 64;

/// The directory, locked by this process.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Opens the directory; creates it if it is missing. With `fresh`, first removes what an earlier run made in it.
    ///
    /// # Errors
    /// Another process uses it; a file in its place was not made by this program; or the file system's error, which
    /// names the path.
    pub fn open(asked: &Path, fresh: bool) -> Result<Self> {
        let path = std::path::absolute(asked).with_context(|| format!("finding {}", asked.display()))?;
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        let lock = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        if lock.try_lock().is_err() {
            bail!("another `amends dev` runs on {}", path.display());
        }
        let directory = Self { path, _lock: lock };
        let (mark, secret, postgres) = (directory.at(DATA_MARK), directory.at(SECRET), directory.postgres());
        let token_key = directory.at(TOKEN_KEY);
        let all_ours = mark.exists() || is_empty(&directory.path)?;
        if !all_ours {
            let is_secret = fs::read(&secret).is_ok_and(|bytes| is_a_secret(&bytes));
            if secret.exists() && !is_secret {
                bail!("{} was not made by `amends dev`; it is left alone", secret.display());
            }
            if token_key.exists() {
                read_token_key(&token_key)?;
            }
            if postgres.exists() && !postgres.join(DATA_MARK).exists() && !is_empty(&postgres)? {
                bail!("{} was not made by `amends dev`; it is left alone", postgres.display());
            }
        }
        if fresh {
            remove(&postgres, |path| fs::remove_dir_all(path))?;
            remove(&secret, |path| fs::remove_file(path))?;
            remove(&token_key, |path| fs::remove_file(path))?;
        }
        let marked = if all_ours {
            mark
        } else {
            fs::create_dir_all(&postgres).with_context(|| format!("making {}", postgres.display()))?;
            postgres.join(DATA_MARK)
        };
        fs::write(&marked, MARK_TEXT).with_context(|| format!("writing {}", marked.display()))?;
        Ok(directory)
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory of the private cluster.
    pub fn postgres(&self) -> PathBuf {
        self.at(POSTGRES)
    }

    /// Returns the secret from which the roles' passwords are derived; drawn once, stored with the data.
    ///
    /// # Errors
    /// The file system's error, which names the path.
    pub fn secret(&self) -> Result<String> {
        let path = self.at(SECRET);
        match fs::read_to_string(&path) {
            Ok(secret) if is_a_secret(secret.as_bytes()) => return Ok(secret),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        }
        let bytes: [u8; SECRET_LENGTH / 2] = rand::random();
        let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut options = fs::OpenOptions::new();
        let written = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(secret.as_bytes()));
        written.with_context(|| format!("writing {}", path.display()))?;
        Ok(secret)
    }

    /// Returns the key that signs tokens; drawn once, stored with the data.
    ///
    /// # Errors
    /// The file in its place is no key; or the file system's error, which names the path.
    pub fn token_key(&self) -> Result<OwnKey> {
        token_key_in(&self.path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Returns the key in a directory that is, or may become, that of `amends dev`, which may be running on it. A missing
/// or empty directory is made and marked.
///
/// # Errors
/// The directory contains something, and none of it was made by `amends dev`; or as [`DataDirectory::token_key`].
pub fn token_key(asked: &Path) -> Result<OwnKey> {
    let path = std::path::absolute(asked).with_context(|| format!("finding {}", asked.display()))?;
    fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    let mark = path.join(DATA_MARK);
    if is_empty(&path)? {
        fs::write(&mark, MARK_TEXT).with_context(|| format!("writing {}", mark.display()))?;
    } else if !mark.exists() && !path.join(POSTGRES).join(DATA_MARK).exists() {
        bail!("{} was not made by `amends dev`; it is left alone", path.display());
    }
    token_key_in(&path)
}

fn token_key_in(directory: &Path) -> Result<OwnKey> {
    let path = directory.join(TOKEN_KEY);
    if !path.exists() {
        draw_token_key(directory, &path).with_context(|| format!("writing {}", path.display()))?;
    }
    read_token_key(&path)
}

/// Draws a key. `dev` and several `token` may do so at once: the first one that is complete counts.
fn draw_token_key(directory: &Path, path: &Path) -> Result<()> {
    let draft = directory.join(format!("{TOKEN_KEY}.{}", uuid::Uuid::now_v7()));
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&draft);
    let written = OwnKey::draw()
        .map_err(anyhow::Error::from)
        .and_then(|pem| file?.write_all(pem.as_bytes()).map_err(anyhow::Error::from))
        .and_then(|()| match fs::hard_link(&draft, path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        });
    remove(&draft, |path| fs::remove_file(path))?;
    written
}

fn read_token_key(path: &Path) -> Result<OwnKey> {
    let pem = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    OwnKey::from_pem(&pem).with_context(|| format!("{} was not made by `amends dev`", path.display()))
}

fn is_a_secret(bytes: &[u8]) -> bool {
    bytes.len() == SECRET_LENGTH && bytes.iter().all(u8::is_ascii_hexdigit)
}

fn is_empty(directory: &Path) -> Result<bool> {
    let mut entries = fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    Ok(entries.next().is_none())
}

fn remove(path: &Path, removing: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    match removing(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Creates the files that a run leaves.
    fn used(path: &Path) {
        let data = DataDirectory::open(path, false).unwrap();
        data.secret().unwrap();
        fs::create_dir_all(data.postgres().join("cluster")).unwrap();
    }

    #[test]
    fn what_somebody_else_put_there_outlives_fresh_and_the_directory_is_not_marked() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("keep"), "x").unwrap();
        used(directory.path());
        assert_eq!(names(directory.path()), ["keep", "postgres", "secret"]);
        let data = DataDirectory::open(directory.path(), true).unwrap();
        assert_eq!(names(&data.postgres()), [DATA_MARK]);
        assert_eq!(names(directory.path()), ["keep", "postgres"]);
    }

    #[test]
    fn a_directory_of_our_own_is_emptied_but_for_what_came_later() {
        let directory = tempfile::tempdir().unwrap();
        used(directory.path());
        fs::write(directory.path().join("notes"), "x").unwrap();
        DataDirectory::open(directory.path(), true).unwrap();
        assert_eq!(names(directory.path()), [DATA_MARK, "notes"]);
    }

    #[test]
    fn a_file_or_directory_of_somebody_else_in_our_place_is_left_alone_and_named() {
        for (name, make) in [
            (SECRET, (|path| fs::write(path, "theirs")) as fn(&Path) -> io::Result<()>),
            (TOKEN_KEY, |path| fs::write(path, "theirs")),
            (POSTGRES, |path| fs::create_dir(path).and_then(|()| fs::write(path.join("base"), "theirs"))),
        ] {
            for fresh in [false, true] {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join(name);
                make(&path).unwrap();
                let refused = DataDirectory::open(directory.path(), fresh).unwrap_err().to_string();
                assert!(refused.contains(path.to_str().unwrap()), "{refused}");
                assert!(path.exists());
            }
        }
    }

    #[test]
    fn a_token_key_that_is_drawn_first_is_the_one_that_dev_uses_and_stays() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let first = token_key(&path).unwrap().jwks();
        assert_eq!(names(&path), [DATA_MARK, TOKEN_KEY]);
        let data = DataDirectory::open(&path, false).unwrap();
        assert_eq!(data.token_key().unwrap().jwks(), first);
        assert_eq!(token_key(&path).unwrap().jwks(), first, "while dev holds the directory");
        drop(data);
        let fresh = DataDirectory::open(&path, true).unwrap();
        assert_ne!(fresh.token_key().unwrap().jwks(), first);
    }

    #[test]
    fn a_token_key_is_not_put_into_a_directory_of_somebody_else() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("keep"), "x").unwrap();
        let refused = token_key(directory.path()).err().unwrap().to_string();
        assert!(refused.contains(directory.path().to_str().unwrap()), "{refused}");
        assert_eq!(names(directory.path()), ["keep"]);
        used(directory.path());
        token_key(directory.path()).unwrap();
    }

    #[test]
    fn an_error_of_the_file_system_names_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "x").unwrap();
        let refused = DataDirectory::open(&path.join("data"), false).unwrap_err().to_string();
        assert!(refused.contains(path.to_str().unwrap()), "{refused}");
    }
}
