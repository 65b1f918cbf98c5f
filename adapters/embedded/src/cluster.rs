//! The directory of a private cluster: its owner, its content, and what an earlier run may have left in it.
//!
//! ```text
//! <directory>/lock       held while a process uses it
//!             password   the superuser's, 0600
//!             cluster/   Postgres' own data directory
//!             server.log the running server's output
//! ```

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::Ipv4Addr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    account::RunAs,
    options::{Error, PostgresOptions, SUPERUSER},
    sys::{self, Signal},
};

/// How long leftovers of an earlier server may take to end before they are killed.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(5);

/// A cluster that is ready to be started, and locked by this process.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) directory: PathBuf,
    pub(crate) password: String,
    bin: PathBuf,
    run_as: RunAs,
    /// The name that marks our server's processes in the process table.
    name: String,
    _lock: File,
}

impl Cluster {
    /// Opens the cluster in this directory; creates it if there is none.
    pub(crate) fn open(options: &PostgresOptions) -> Result<Self, Error> {
        let bin = find_binaries(&std::env::var_os("PATH").unwrap_or_default()).ok_or(Error::NotInstalled)?;
        let run_as = RunAs::choose()
            .map_err(|error| Error::io("choosing a user from", Path::new("/etc/passwd"), error))?;
        let directory = usable_directory(&options.data_dir, &run_as)?;
        let lock = lock(&directory)?;
        let mut hash = DefaultHasher::new();
        directory.hash(&mut hash);
        let name = format!("amends-{:016x}", hash.finish());
        let mut cluster = Self { directory, password: String::new(), bin, run_as, name, _lock: lock };
        cluster.end_leftovers();
        if options.fresh {
            remove(&cluster.data())?;
        }
        cluster.password = cluster.keep_password()?;
        if !cluster.data().exists() {
            cluster.create(options)?;
        }
        Ok(cluster)
    }

    /// Returns the server's command, after ending whatever an earlier server left behind.
    pub(crate) fn server(&self, port: u16, settings: &[(String, String)]) -> io::Result<Command> {
        self.end_leftovers();
        let log = File::create(self.log()).map_err(|error| {
            io::Error::new(error.kind(), format!("writing {}: {error}", self.log().display()))
        })?;
        let mut command = self.run_as.command(&self.bin.join("postgres"), &self.directory);
        command.arg("-D").arg(self.data()).env("LC_ALL", "C");
        let ours = [("cluster_name", self.name.clone()), ("port", port.to_string())];
        let given = settings.iter().map(|(key, value)| (key.as_str(), value.clone()));
        for (key, value) in ours.into_iter().chain(given) {
            command.arg("-c").arg(format!("{key}={value}"));
        }
        // Its own process group: Ctrl-C in a terminal is for this process, which stops the server last.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdout(Stdio::null()).stderr(log);
        Ok(command)
    }

    /// Returns the last lines of the server's log.
    pub(crate) fn last_log_lines(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }

    /// Returns the path of the superuser's password.
    pub(crate) fn password_file(&self) -> PathBuf {
        self.directory.join("password")
    }

    fn data(&self) -> PathBuf {
        self.directory.join("cluster")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    /// Returns the superuser's password: drawn once, then stored with the cluster. A cluster whose password is lost is
    /// left alone.
    fn keep_password(&self) -> Result<String, Error> {
        let path = self.password_file();
        let failed = |error| Error::io("keeping the password in", &path, error);
        match fs::read_to_string(&path) {
            Ok(password) if !password.is_empty() => return Ok(password),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            // The password is stored before the cluster is created.
            _ if self.data().exists() => return Err(Error::PasswordLost(path)),
            _ => {}
        }
        let password = format!("{:032x}", rand::random::<u128>());
        let draft = self.directory.join("password.new");
        fs::write(&draft, "").map_err(failed)?;
        fs::set_permissions(&draft, Permissions::from_mode(0o600)).map_err(failed)?;
        fs::write(&draft, &password).map_err(failed)?;
        self.run_as.own(&draft).map_err(failed)?;
        fs::rename(&draft, &path).map_err(failed)?;
        Ok(password)
    }

    /// Runs `initdb` beside the final directory, so that a half-made cluster is never used.
    fn create(&self, options: &PostgresOptions) -> Result<(), Error> {
        tracing::info!(directory = %self.directory.display(), "creating a Postgres cluster");
        let draft = self.directory.join("cluster.new");
        remove(&draft)?;
        let mut initdb = self.run_as.command(&self.bin.join("initdb"), &self.directory);
        initdb.arg("-D").arg(&draft).arg("--pwfile").arg(self.password_file());
        initdb.args(["-U", SUPERUSER, "-E", "UTF8", "--no-locale"]);
        let method = if options.scram { "scram-sha-256" } else { "password" };
        initdb.arg(format!("--auth={method}"));
        if !options.fsync {
            initdb.arg("--no-sync");
        }
        // An interrupted start ends `initdb`.
        sys::die_with_spawner(&mut initdb, Signal::Kill);
        let output = initdb.output().map_err(|error| Error::io("running initdb in", &draft, error))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            return Err(Error::Initdb(said));
        }
        if options.address != Ipv4Addr::LOCALHOST {
            // initdb's own rules let in who comes from 127.0.0.1.
            let path = draft.join("pg_hba.conf");
            let mut rules = fs::read_to_string(&path).map_err(|error| Error::io("reading", &path, error))?;
            rules.push_str(&format!("host all all samenet {method}\n"));
            fs::write(&path, rules).map_err(|error| Error::io("writing", &path, error))?;
        }
        fs::rename(&draft, self.data()).map_err(|error| Error::io("keeping", &self.data(), error))
    }

    /// Ends processes of an earlier server. After kill -9 of everything, or of the server alone, some may still be
    /// about to end, and `postmaster.pid` may name an unrelated process. This process holds the lock, so a process with
    /// our cluster's name serves no one.
    fn end_leftovers(&self) {
        let begun = Instant::now();
        loop {
            let leftovers = processes_named(&self.name);
            if leftovers.is_empty() {
                break;
            }
            let patient = begun.elapsed() < LEFTOVER_PATIENCE;
            let signal = if patient { Signal::Quit } else { Signal::Kill };
            tracing::debug!(?leftovers, ?signal, "ending what an earlier server left behind");
            leftovers.into_iter().for_each(|pid| sys::signal(pid, signal));
            thread::sleep(Duration::from_millis(20));
        }
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
    }
}

/// Returns the requested directory or, as root, one that the unprivileged user can reach: a checkout under a 0700 home
/// is not reachable. The fallback is derived from the requested name, so that the next run finds it again.
fn usable_directory(asked: &Path, run_as: &RunAs) -> Result<PathBuf, Error> {
    let made = |path: &Path| {
        DirBuilder::new().recursive(true).mode(0o755).create(path)?;
        let path = path.canonicalize()?;
        run_as.own(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        Ok::<_, io::Error>(path)
    };
    let first = made(asked).map_err(|error| Error::io("making", asked, error))?;
    if run_as.reaches(&first) {
        return Ok(first);
    }
    let mut hash = DefaultHasher::new();
    first.hash(&mut hash);
    let name = format!("postgres-{:016x}", hash.finish());
    let elsewhere = [PathBuf::from("/var/lib/amends"), std::env::temp_dir().join("amends")];
    let found = elsewhere
        .iter()
        .filter_map(|parent| made(&parent.join(&name)).ok())
        .find(|directory| run_as.reaches(directory));
    match found {
        Some(directory) => {
            tracing::info!(
                asked = %first.display(),
                used = %directory.display(),
                "the server's user cannot reach the directory; using another one"
            );
            Ok(directory)
        }
        None => Err(Error::Unreachable(first)),
    }
}

fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join("lock");
    let lock = File::create(&path).map_err(|error| Error::io("opening", &path, error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(directory.into())),
        Err(TryLockError::Error(error)) => Err(Error::io("locking", &path, error)),
    }
}

fn remove(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", directory, error)),
        _ => Ok(()),
    }
}

/// Returns the directory of `initdb` and `postgres`: on the path, where `pg_config` says, or where Debian puts them.
fn find_binaries(path: &std::ffi::OsStr) -> Option<PathBuf> {
    let complete = |bin: &PathBuf| ["initdb", "postgres"].iter().all(|program| bin.join(program).is_file());
    let on_path = std::env::split_paths(path);
    let by_pg_config = Command::new("pg_config").arg("--bindir").output().ok().into_iter().map(|output| {
        let bin = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        PathBuf::from(bin)
    });
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    debian.sort_by(|a, b| b.cmp(a));
    on_path.chain(by_pg_config).chain(debian.into_iter().map(|(_, bin)| bin)).find(complete)
}

/// Returns the processes whose command line contains this word; Postgres puts its `cluster_name` into all of its own.
fn processes_named(name: &str) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(name)
        })
        .collect()
}
