//! A temporary directory for this process, and the end of those that dead processes left behind.
//!
//! A killed test cannot tidy up, and what a static holds is never dropped: whoever comes next sweeps.

use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// Keeps its lock for as long as the process lives.
struct Scratch {
    path: PathBuf,
    _lock: File,
}

static SCRATCH: LazyLock<Scratch> = LazyLock::new(|| {
    // Every user has a parent of their own: in /tmp one may not remove another's.
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

/// This process' directory. An unprivileged user can reach it.
pub(crate) fn directory() -> &'static Path {
    &SCRATCH.path
}

/// Removes the directories of processes that are gone. What cannot be removed yet is left to the next process.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.split('-').next().unwrap_or_default();
        // The id may be from another container, or not have locked its directory yet: both must say it is dead.
        let runs = Path::new("/proc").join(pid).exists();
        let locked = File::open(entry.path().join("alive")).is_ok_and(|lock| lock.try_lock().is_err());
        if !runs && !locked {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
