//! Network namespaces on one switch, by iproute2 alone: each has one address, and drops what comes from an address that it
//! is cut off from. Names and addresses are fixed, so that what a killed run has left is found and removed.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::AsFd,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{
    Error,
    plan::{Place, our_address},
};

/// With it begins the name of every namespace.
const PREFIX: &str = "amends-net-";
/// The bridge's namespace: not the machine's, whose packet filter may drop what crosses a bridge.
const SWITCH: &str = "amends-net-switch";
/// This machine's interface in the network.
const OUR_INTERFACE: &str = "amends-net";
/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";
/// Held while a run uses the names.
const LOCK: &str = "/run/amends-network.lock";
/// Preference of the rules that drop.
const DROPS: u32 = 50;
/// Preference of the rule that delivers what is addressed to the place itself. It is 0 by default, before any other.
const DELIVERS: u32 = 100;

/// A namespace for each place. They are removed when this is dropped.
#[derive(Debug)]
pub struct Namespaces {
    _lock: File,
}

impl Namespaces {
    /// Makes them, after removing those of an earlier run and ending what still runs there.
    ///
    /// # Errors
    /// [`Error::NotRoot`], [`Error::NoIproute2`], [`Error::InUse`]; [`Error::Ip`]: the kernel refuses something.
    pub fn create(places: &[Place]) -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let found = Command::new("ip").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            return Err(Error::NoIproute2);
        }
        let lock = File::create(LOCK).map_err(Error::io(format!("making {LOCK}")))?;
        lock.try_lock().map_err(|_| Error::InUse)?;
        remove_leftovers();
        let namespaces = Self { _lock: lock };
        let mut machine = vec![format!("netns add {SWITCH}")];
        machine.extend(places.iter().map(|place| format!("netns add {PREFIX}{}", place.name)));
        machine.extend([
            format!("link add {OUR_INTERFACE} type veth peer name host netns {SWITCH}"),
            format!("addr add {}/24 dev {OUR_INTERFACE}", our_address()),
            format!("link set {OUR_INTERFACE} up"),
        ]);
        ip(None, &machine)?;
        let mut switch: Vec<String> =
            ["link add bridge type bridge", "link set bridge up"].map(Into::into).into();
        for place in places {
            let name = &place.name;
            switch.push(format!("link add {name} type veth peer name eth0 netns {PREFIX}{name}"));
        }
        for port in places.iter().map(|place| place.name.as_str()).chain(["host"]) {
            switch.extend([format!("link set {port} master bridge"), format!("link set {port} up")]);
        }
        ip(Some(SWITCH), &switch)?;
        for place in places {
            let up = [
                "link set lo up".to_owned(),
                format!("addr add {}/24 dev eth0", place.address),
                "link set eth0 up".to_owned(),
                format!("rule add pref {DELIVERS} lookup local"),
                "rule del pref 0".to_owned(),
            ];
            ip(Some(&format!("{PREFIX}{}", place.name)), &up)?;
        }
        Ok(namespaces)
    }

    /// From now on packets from one place to the other are dropped on arrival, without a word to the sender.
    ///
    /// # Errors
    /// [`Error::Ip`]
    pub fn drop_packets(&self, from: &Place, to: &Place) -> Result<(), Error> {
        rule("add", from, to)
    }

    /// Ends [`Self::drop_packets`].
    ///
    /// # Errors
    /// [`Error::Ip`]
    pub fn let_packets_pass(&self, from: &Place, to: &Place) -> Result<(), Error> {
        rule("del", from, to)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        remove_leftovers();
    }
}

/// A rule finds no route for what comes from there, and so does the lookup that packets of open connections repeat once
/// rules have changed.
fn rule(verb: &str, from: &Place, to: &Place) -> Result<(), Error> {
    let rule = format!("rule {verb} pref {DROPS} from {} blackhole", from.address);
    ip(Some(&format!("{PREFIX}{}", to.name)), &[rule])
}

/// Calls this on a thread in the namespace of a place; a process that it spawns is in the namespace too.
///
/// # Errors
/// [`Error::Io`]: there is no such namespace.
pub fn inside<T: Send>(place: &str, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let path = format!("{NAMESPACES}/{PREFIX}{place}");
    let enter = || -> io::Result<()> {
        let namespace = File::open(&path)?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    };
    thread::scope(|scope| {
        // The thread ends with the work, and no other work is in the wrong namespace.
        let thread = scope.spawn(|| enter().map(|()| work()));
        let done = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.map_err(Error::io(format!("entering {path}")))
    })
}

/// Ends what runs in our namespaces, and removes them with their interfaces.
fn remove_leftovers() {
    for name in names(Path::new(NAMESPACES)) {
        let output = Command::new("ip").args(["netns", "pids", &name]).stderr(Stdio::null()).output();
        let pids =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        for pid in pids.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = ip(None, &[format!("netns del {name}")]);
    }
    // With the switch's end of it gone it goes too, but not at once.
    if Path::new("/sys/class/net").join(OUR_INTERFACE).exists() {
        let _ = ip(None, &[format!("link del {OUR_INTERFACE}")]);
    }
}

/// Returns the names of our namespaces.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(PREFIX)).collect()
}

/// Has `ip` carry out these commands in a namespace, or in this machine's.
fn ip(namespace: Option<&str>, commands: &[String]) -> Result<(), Error> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-netns", namespace]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(Error::io("running ip"))?;
    let mut input = child.stdin.take().expect("it is piped");
    // If it ends early, its status says so.
    let _ = input.write_all((commands.join("\n") + "\n").as_bytes());
    drop(input);
    let output = child.wait_with_output().map_err(Error::io("running ip"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(Error::Ip { said, first: commands.first().cloned().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_namespaces_are_ours() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["amends-net-engine-1", "amends-network", "other", "amends-net-switch"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let mut found = names(directory.path());
        found.sort_unstable();
        assert_eq!(found, ["amends-net-engine-1", "amends-net-switch"]);
        assert!(names(&directory.path().join("none")).is_empty());
    }

    #[test]
    fn a_place_that_does_not_exist_cannot_be_entered() {
        let error = inside("nowhere", || ()).unwrap_err().to_string();
        assert!(error.starts_with("entering /run/netns/amends-net-nowhere: "), "{error}");
    }
}
