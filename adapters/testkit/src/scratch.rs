//! A temporary directory for this process, and the removal of those that dead processes left behind.
//!
//! A killed test cannot clean up, and statics are never dropped: the next process removes the directory.

use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// Keeps its lock as long as the process lives.
struct Scratch {
    path: PathBuf,
    _lock: File,
}

static SCRATCH: LazyLock<Scratch> = LazyLock::new(|| {
    // Every user has a separate parent directory: in /tmp a user may not remove another's.
    let user = fs::metadata("/proc/self").map_or(0, |own| std::os::unix::fs::MetadataExt::uid(&own));
    let parent = std::env::temp_dir().join(format!("amends-tests-{user}"));
    DirBuilder::new().recursive(true).mode(0o755).create(&parent).expect("a temporary directory can be made");
    sweep(&parent);
    let path = parent.join(format!("{}-{:08x}", std::process::id(), rand::random::<u32>()));
    DirBuilder::new().mode(0o755).create(&path).expect("a temporary directory can be made");
    let lock = File::create(path.join("alive")).expect("a file can be made in it");
    lock.lock().expect("a new file can be locked");
    Scratch { path, _lock: lock }
});

/// Returns this process' directory. An unprivileged user can reach it.
pub(crate) fn directory() -> &'static Path {
    &SCRATCH.path
}

/// Removes the directories of processes that are gone. Those that cannot be removed yet are left to the next process.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.split('-').next().unwrap_or_default();
        // The id may be from another container, or the process may not have locked its directory yet: both checks must
        // say that it is dead.
        let runs = Path::new("/proc").join(pid).exists();
        let locked = File::open(entry.path().join("alive")).is_ok_and(|lock| lock.try_lock().is_err());
        if !runs && !locked {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
