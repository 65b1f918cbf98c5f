//! The unprivileged user as which servers run when Amends runs as root: Postgres refuses to run as root.

use std::{
    fs, io,
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use crate::sys;

/// An existing entry of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    uid: u32,
    gid: u32,
}

/// The user as which a server runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RunAs {
    /// The user of this process.
    Ourselves,
    /// Another user, because this process runs as root.
    Account(Account),
}

impl RunAs {
    /// Returns the user of this process, or as root the first of a few accounts that exists.
    pub(crate) fn choose() -> io::Result<Self> {
        if !sys::is_root() {
            return Ok(Self::Ourselves);
        }
        let passwd = fs::read_to_string("/etc/passwd")?;
        ["postgres", "nobody", "daemon"]
            .into_iter()
            .find_map(|name| account(&passwd, name))
            .map(Self::Account)
            .ok_or_else(|| {
                io::Error::other("running as root, and /etc/passwd has no user postgres or nobody")
            })
    }

    /// Builds a command that runs as this user, in this directory.
    pub(crate) fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(directory).stdin(Stdio::null());
        if let Self::Account(account) = self {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    /// Gives this user ownership of one of our files or directories.
    pub(crate) fn own(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Ourselves => Ok(()),
            Self::Account(account) => chown(path, Some(account.uid), Some(account.gid)),
        }
    }

    /// Returns whether this user can work in a directory. It is found out by trying, because modes alone do not tell.
    pub(crate) fn reaches(&self, directory: &Path) -> bool {
        match self {
            Self::Ourselves => true,
            Self::Account(_) => self
                .command(Path::new("/bin/sh"), Path::new("/"))
                .args(["-c", "cd -- \"$1\" && test -w .", "sh"])
                .arg(directory)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success()),
        }
    }
}

fn account(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        (found && uid != 0).then(|| Account { name: name.into(), uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name_and_never_root() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\nnobodyelse:x:7:7:::\nnobody:x:65534:65533:::\npostgres:x:0:0:::\n";
        assert_eq!(
            account(passwd, "nobody"),
            Some(Account { name: "nobody".into(), uid: 65534, gid: 65533 })
        );
        assert_eq!(account(passwd, "postgres"), None);
        assert_eq!(account(passwd, "daemon"), None);
    }
}
