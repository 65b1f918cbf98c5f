//! Secrets in files: each secret setting can be replaced by one of the same name with `_file`, the path of a file that
//! contains it.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use config::Value;
use secrecy::SecretString;

use super::{Error, flat, services::API};

/// The secrets, beside the URL of each service's database.
const SECRETS: [&str; 5] =
    ["service_token", "webhook_key", "database_url", "redis_url", "kafka_sasl_password"];
/// More than any secret, and less than a mistaken file.
const SECRET_BYTES_MOST: u64 = 64 * 1024;

/// A file from which a secret was read.
#[derive(Debug, Clone)]
pub struct SecretFile {
    pub path: PathBuf,
    pub content: SecretString,
}

/// Reads the files of secrets, and puts their contents among the keys. Returns the files, by the secret's setting.
pub(super) fn read(
    services: &[&str],
    keys: &mut HashMap<String, Value>,
) -> Result<BTreeMap<String, SecretFile>, Error> {
    let of_services = services.iter().chain([&API]).map(|service| format!("{service}_database_url"));
    let mut files = BTreeMap::new();
    for secret in SECRETS.iter().map(|secret| (*secret).to_owned()).chain(of_services) {
        let key = format!("{secret}_file");
        let Some(path) = keys.remove(&key) else { continue };
        let path =
            path.into_string().map_err(|_| Error::Invalid(format!("{key}: must be the path of a file")))?;
        if keys.contains_key(&secret) {
            return Err(Error::Invalid(format!("{key}: must not be set beside {secret}")));
        }
        let content =
            content(Path::new(&path)).map_err(|why| Error::Invalid(format!("{key}: {}", flat(&why))))?;
        keys.insert(secret.clone(), content.clone().into());
        files.insert(secret, SecretFile { path: path.into(), content: content.into() });
    }
    Ok(files)
}

/// Returns the text of a file of a secret, without the line break at its end.
pub(crate) fn content(path: &Path) -> Result<String, String> {
    if path.to_string_lossy().contains("://") {
        return Err("must be the path of a file".to_owned());
    }
    let unreadable = |error| format!("{} cannot be read: {error}", path.display());
    if fs::metadata(path).map_err(unreadable)?.len() > SECRET_BYTES_MOST {
        return Err(format!("{} is too large for a secret", path.display()));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::super::Settings;

    fn read(flags: &[(&str, &str)]) -> Result<Settings, super::Error> {
        let flags: Vec<_> = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::layered(&crate::services::names(), None, &flags, std::iter::empty())
    }

    #[test]
    fn a_secret_in_a_file_counts_as_if_it_were_set_and_stays_hidden() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("url");
        std::fs::write(&path, "postgres://amends_payment:hunter2@db/amends_payment\n").unwrap();
        let path = path.to_str().unwrap();
        let settings = read(&[("payment_database_url_file", path)]).unwrap();
        assert_eq!(
            settings.database_of("payment").unwrap(),
            "postgres://amends_payment:hunter2@db/amends_payment"
        );
        assert_eq!(settings.secret_files["payment_database_url"].path.to_str(), Some(path));
        let shown = format!("{settings:?}{}", settings.commented());
        assert!(!shown.contains("hunter2") && shown.contains(path), "{shown}");

        let token = directory.path().join("token");
        std::fs::write(&token, "0123456789abcdef\r\n").unwrap();
        let settings = read(&[("service_token_file", token.to_str().unwrap())]).unwrap();
        assert_eq!(settings.service_token.unwrap().expose_secret(), "0123456789abcdef");
    }

    #[test]
    fn a_file_that_is_missing_empty_or_set_beside_its_secret_is_named_in_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty");
        std::fs::write(&empty, "\n").unwrap();
        let (empty, missing) = (empty.to_str().unwrap(), "/nowhere/secret");
        for (flags, part) in [
            (vec![("service_token_file", missing)], missing),
            (vec![("kafka_sasl_password_file", empty)], "is empty"),
            (vec![("redis_url_file", "/")], "cannot be read"),
            (vec![("redis_url_file", empty), ("redis_url", "redis://h")], "beside redis_url"),
        ] {
            let error = read(&flags).unwrap_err().to_string();
            assert!(error.contains(flags[0].0) && error.contains(part) && !error.contains('\n'), "{error}");
        }
    }
}
