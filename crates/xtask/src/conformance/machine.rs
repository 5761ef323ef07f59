//! The machine of a run: process, mount and network namespaces of its own, gone with all that ran there however the run ends.
//!
//! ```text
//! outer    what the user started; holds the janitor's pipe
//! ├ janitor  outside and in a session of its own: when the pipe closes it removes the cgroups that are left
//! └ init     process 1 of the namespaces (through unshare, killed with outer): takes the orphans' ends
//!   └ run    starts the platform and the test program
//! ```

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

/// Which part a process plays; unset in the one that the user started.
const ROLE: &str = "XTASK_CONFORMANCE_ROLE";
/// The run's folder: named by the outer process, for ids are not the same inside.
const FOLDER: &str = "XTASK_CONFORMANCE_FOLDER";
/// The machine's address and link: it has a neighbourhood (RFC 5737), and no way out of it.
const ADDRESS: &str = "192.0.2.2/24";
/// How long killed processes may keep their cgroups.
const LEAVE: Duration = Duration::from_secs(30);
/// What the outer process says when the run came to its end by itself.
const DONE: &[u8] = b"done";

/// Runs `work` on a machine of its own, with the run's folder, which exists and is empty.
pub fn within(
    arguments: &[&str],
    work: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let role = std::env::var(ROLE).unwrap_or_default();
    let folder = std::env::var_os(FOLDER).map(PathBuf::from);
    match (role.as_str(), folder) {
        ("run", Some(folder)) => {
            set_up()?;
            work(&folder)
        }
        ("init", Some(_)) => {
            let code = init(arguments)?;
            std::process::exit(i32::from(code));
        }
        ("janitor", Some(folder)) => janitor(&folder),
        _ => outer(arguments),
    }
}

fn outer(arguments: &[&str]) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("knarr-conformance-{}", std::process::id()));
    fs::create_dir(&folder).context("the run's folder")?;
    let again = std::env::current_exe()?;
    let mut janitor = Command::new("setsid")
        .arg(&again)
        .arg("conformance")
        .args(arguments)
        .env(ROLE, "janitor")
        .env(FOLDER, &folder)
        .stdin(Stdio::piped())
        .spawn()
        .context("setsid (of util-linux) does not start")?;
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "unshare"])
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "--"])
        .arg(&again)
        .arg("conformance")
        .args(arguments)
        .env(ROLE, "init")
        .env(FOLDER, &folder)
        .status()
        .context("setpriv (of util-linux) does not start")?;
    if let Some(mut pipe) = janitor.stdin.take() {
        let _ = pipe.write_all(DONE);
    }
    let _ = janitor.wait();
    let _ = fs::remove_dir(&folder); // kept when the run left something to look at
    ensure!(status.success(), "not all cases pass (see above)");
    Ok(())
}

/// Takes the ends of all processes that lost their parents, until the one that does the work ends.
fn init(arguments: &[&str]) -> anyhow::Result<u8> {
    use rustix::process::{WaitOptions, wait};
    let child = Command::new(std::env::current_exe()?)
        .arg("conformance")
        .args(arguments)
        .env(ROLE, "run")
        .spawn()?;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_pid().unsigned_abs() == child.id() => {
                return Ok(match status.exit_status() {
                    Some(code) => u8::try_from(code).unwrap_or(1),
                    None => 1,
                });
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => bail!("waiting for the run: {error}"),
        }
    }
}

/// Mounts travel between its namespaces as on any machine with systemd; one address that others may be told.
fn set_up() -> anyhow::Result<()> {
    let lines = [
        "mount --make-rshared /",
        "ip link set lo up",
        "ip link add eth0 type veth peer name outside",
        "ip link set outside up",
        &format!("ip address add {ADDRESS} dev eth0"),
        "ip link set eth0 up",
    ];
    for line in lines {
        let mut words = line.split(' ');
        let status = Command::new(words.next().unwrap_or_default())
            .args(words)
            .status();
        ensure!(
            status.is_ok_and(|s| s.success()),
            "{line}: needs root and iproute2"
        );
    }
    Ok(())
}

/// Waits for the end of the run and removes what namespaces don't take along.
fn janitor(folder: &Path) -> anyhow::Result<()> {
    let mut said = Vec::new();
    std::io::stdin().read_to_end(&mut said)?;
    let settings = fs::read(folder.join("data/settings.json")).unwrap_or_default();
    let settings: serde_json::Value = serde_json::from_slice(&settings).unwrap_or_default();
    if let Some(instance) = settings["instance"].as_str() {
        let end = Instant::now() + LEAVE;
        let name = format!("knarr-{instance}");
        while !remove_cgroups(Path::new("/sys/fs/cgroup"), &name) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    if said != DONE {
        let _ = fs::remove_dir_all(folder);
    }
    Ok(())
}

/// Removes the cgroups of that name (or that and an ending after a dash) in every hierarchy; whether none is left.
fn remove_cgroups(root: &Path, name: &str) -> bool {
    let folders = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let folders = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        folders.map(|e| e.path()).collect::<Vec<_>>()
    };
    fn remove(path: &Path, folders: &dyn Fn(&Path) -> Vec<PathBuf>) -> bool {
        for below in folders(path) {
            remove(&below, folders);
        }
        fs::remove_dir(path).is_ok()
    }
    let ours = |path: &PathBuf| {
        let found = path.file_name().and_then(|n| n.to_str());
        let rest = found.and_then(|found| found.strip_prefix(name));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let mut all = true;
    // cgroup2 alone has them in the root, a hybrid tree below each hierarchy's
    for hierarchy in std::iter::once(root.to_owned()).chain(folders(root)) {
        for path in folders(&hierarchy).iter().filter(|path| ours(path)) {
            all &= remove(path, &folders);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cgroups_of_the_run_are_removed() {
        let root = std::env::temp_dir().join(format!("xtask-cgroups-{}", std::process::id()));
        let all = [
            "cpu/knarr-ab/pod/c",
            "cpu/knarr-ab-2/pod",
            "cpu/knarr-abc/pod",
            "knarr-ab",
        ];
        for path in all {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        assert!(remove_cgroups(&root, "knarr-ab"));
        let left = all.map(|path| root.join(path).exists());
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(left, [false, false, true, false]);
    }
}
