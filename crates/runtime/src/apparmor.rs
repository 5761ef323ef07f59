//! AppArmor: whether the machine has it, which profiles its kernel has, the default one, and putting a process under one.
//!
//! SOURCE: runc `libcontainer/apparmor`, containerd `pkg/apparmor` and `contrib/apparmor`: the same files, in the same order.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    privileges::os_text,
    sys::{pidfd_open, wait_readable},
};

/// What containerd calls its default profile: one that it has loaded already serves us too, and tools know the name.
pub const DEFAULT_PROFILE: &str = "cri-containerd.apparmor.d";

/// What a process is put under that a profile must not reach.
pub(crate) const UNCONFINED: &str = "unconfined";

const PARSER: &str = "sbin/apparmor_parser";

/// Compiling and loading the default profile takes well under a second.
const LOAD: Duration = Duration::from_secs(20);

/// AppArmor as the kernel and the file system show it.
#[derive(Debug, Clone)]
pub struct AppArmor {
    /// `/`, or in tests a tree that looks like one
    root: PathBuf,
}

impl Default for AppArmor {
    fn default() -> AppArmor {
        AppArmor { root: "/".into() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AppArmorError {
    #[error("AppArmor is not supported on this host, but the profile '{0}' was specified")]
    None(String),
    #[error("AppArmor profile '{0}' is not loaded: load it with apparmor_parser")]
    Unknown(String),
    #[error("reading the loaded AppArmor profiles ({path}): {source}")]
    Profiles { path: PathBuf, source: io::Error },
    #[error("running /sbin/apparmor_parser: {0}; see that it is installed and can be run")]
    Parser(io::Error),
    #[error(
        "load apparmor profile {DEFAULT_PROFILE}: parser error({said}); see `apparmor_parser --help` and /etc/apparmor.d"
    )]
    Refused { said: String },
    #[error("load apparmor profile {DEFAULT_PROFILE}: apparmor_parser did not end within {LOAD:?}")]
    Late,
}

impl AppArmor {
    /// One that looks below another folder than `/`.
    pub fn below(root: impl Into<PathBuf>) -> AppArmor {
        AppArmor { root: root.into() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Whether the kernel enforces profiles. Blocking: two small files.
    pub fn enabled(&self) -> bool {
        let on = fs::read_to_string(self.at("sys/module/apparmor/parameters/enabled"));
        self.at("sys/kernel/security/apparmor").exists()
            && on.is_ok_and(|text| text.starts_with('Y'))
    }

    /// Whether containers can be given profiles: enforced, and with the tool that loads the default one.
    pub fn usable(&self) -> bool {
        self.enabled() && self.at(PARSER).exists()
    }

    /// Whether the kernel has a profile of this name.
    ///
    /// # Errors
    /// When the list of profiles can't be read.
    pub fn loaded(&self, profile: &str) -> Result<bool, AppArmorError> {
        let path = self.at("sys/kernel/security/apparmor/profiles");
        match fs::read_to_string(&path) {
            // `NAME (MODE)`
            Ok(text) => Ok(text.lines().any(|line| {
                line.strip_prefix(profile)
                    .is_some_and(|rest| rest.starts_with(" ("))
            })),
            Err(source) => Err(AppArmorError::Profiles { path, source }),
        }
    }

    /// The profile of a container that isn't a Pod's, for [`crate::ContainerSpec::apparmor`]. `wanted` is what a Docker user says: nothing
    /// or `docker-default`, `unconfined`, or a profile's name. Blocking, as [`AppArmor::default_profile`].
    ///
    /// SOURCE: moby `daemon/container_linux.go`, `daemon/oci_linux.go` WithApparmor.
    ///
    /// # Errors
    /// A profile that the kernel doesn't have, or the default one can't be loaded.
    pub fn profile_for(&self, wanted: &str, privileged: bool) -> Result<String, AppArmorError> {
        match wanted {
            "unconfined" => Ok(String::new()),
            "" | "docker-default" => match self.usable() && !privileged {
                true => Ok(self.default_profile()?.into()),
                false => Ok(String::new()),
            },
            name if !self.enabled() => Err(AppArmorError::None(name.into())),
            name if self.loaded(name)? => Ok(name.into()),
            name => Err(AppArmorError::Unknown(name.into())),
        }
    }

    /// Sees that the kernel has [`DEFAULT_PROFILE`], and gives its name. Blocking, the first time for as long as the parser takes.
    ///
    /// # Errors
    /// When it isn't there and can't be loaded.
    pub fn default_profile(&self) -> Result<&'static str, AppArmorError> {
        if !self.loaded(DEFAULT_PROFILE)? {
            self.load()?;
        }
        Ok(DEFAULT_PROFILE)
    }

    fn load(&self) -> Result<(), AppArmorError> {
        let own = fs::read_to_string(self.at("proc/self/attr/current")).unwrap_or_default();
        let text = profile_text(&self.at("etc/apparmor.d"), label(&own));
        // as containerd calls it: no cache, replaced if another came first
        let mut child = Command::new(self.at(PARSER))
            .arg("-Kr")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(AppArmorError::Parser)?;
        if let Some(mut input) = child.stdin.take() {
            // a parser that ends early says why in its output
            let _ = input.write_all(text.as_bytes());
        }
        let pid = i32::try_from(child.id()).unwrap_or_default();
        if pidfd_open(pid).is_ok_and(|process| !wait_readable(&process, LOAD)) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(AppArmorError::Late);
        }
        let done = child.wait_with_output().map_err(AppArmorError::Parser)?;
        if done.status.success() {
            return Ok(());
        }
        let said = [done.stdout, done.stderr].concat();
        Err(AppArmorError::Refused {
            said: String::from_utf8_lossy(&said).trim().to_owned(),
        })
    }
}

/// `NAME (MODE)` or `NAME`: the name; nothing is said of a process that nothing confines.
fn label(current: &str) -> &str {
    let name = current.trim().split(" (").next().unwrap_or_default();
    if name.is_empty() { UNCONFINED } else { name }
}

/// The rules that containerd's default profile has: all but writing to what belongs to the machine below /proc and /sys, mounting, and looking into processes outside. `own` is the profile of this process, which sends signals to the container.
fn profile_text(folder: &Path, own: &str) -> String {
    let has = |name: &str| folder.join(name).exists();
    let mut lines: Vec<String> = Vec::new();
    let mut add = |line: &str| lines.push(line.to_owned());
    if has("abi/3.0") {
        add("abi <abi/3.0>,");
    }
    add(if has("tunables/global") {
        "#include <tunables/global>"
    } else {
        "@{PROC}=/proc/"
    });
    add(&format!(
        "profile {DEFAULT_PROFILE} flags=(attach_disconnected,mediate_deleted) {{"
    ));
    if has("abstractions/base") {
        add("#include <abstractions/base>");
    }
    for allowed in ["network", "capability", "file", "umount"] {
        add(&format!("{allowed},"));
    }
    for sender in [UNCONFINED, "runc", "crun", own] {
        add(&format!("signal (receive) peer={sender},"));
    }
    add(&format!("signal (send,receive) peer={DEFAULT_PROFILE},"));
    add(&format!(
        "ptrace (trace,tracedby,read,readby) peer={DEFAULT_PROFILE},"
    ));
    for (what, how) in DENIED {
        add(&format!("deny {what} {how},"));
    }
    add("deny mount,");
    add("}");
    lines.join("\n") + "\n"
}

/// Paths and the ways in which they can't be used.
const DENIED: [(&str, &str); 14] = [
    // files right in /proc
    ("@{PROC}/*", "w"),
    // folders there that are neither a process's nor sys
    (
        "@{PROC}/{[^1-9/],[^1-9/][^0-9/],[^1-9s/][^0-9y/][^0-9s/],[^1-9/][^0-9/][^0-9/][^0-9/]*}/**",
        "w",
    ),
    // kernel parameters but kernel.shm*
    ("@{PROC}/sys/[^k]**", "w"),
    ("@{PROC}/sys/kernel/{?,??,[^s][^h][^m]**}", "w"),
    ("@{PROC}/sysrq-trigger", "rwklx"),
    ("@{PROC}/kcore", "rwklx"),
    // all of /sys but the cgroups
    ("/sys/[^f]*/**", "wklx"),
    ("/sys/f[^s]*/**", "wklx"),
    ("/sys/fs/[^c]*/**", "wklx"),
    ("/sys/fs/c[^g]*/**", "wklx"),
    ("/sys/fs/cg[^r]*/**", "wklx"),
    ("/sys/firmware/**", "rwklx"),
    ("/sys/devices/virtual/powercap/**", "rwklx"),
    ("/sys/kernel/security/**", "rwklx"),
];

/// The calling process, which has one thread, is under the profile from its next exec on. Runs inside the container.
pub(crate) fn apply_on_exec(profile: &str) -> Result<(), String> {
    apply_at(Path::new("/proc/self/attr"), profile, true)
}

fn apply_at(folder: &Path, profile: &str, of_the_kernel: bool) -> Result<(), String> {
    let told = |e: io::Error| format!("apparmor failed to apply profile: {}", os_text(&e));
    // a folder of its own where several security modules share the kernel (5.8 and later)
    let own = folder.join("apparmor/exec");
    let path = if own.exists() {
        own
    } else {
        folder.join("exec")
    };
    let file = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(told)?;
    if of_the_kernel {
        // a file of the image in its place would swallow the order (CVE-2019-16884)
        let kind = rustix::fs::fstatfs(&file)
            .map_err(|e| told(e.into()))?
            .f_type;
        if kind as u64 != rustix::fs::PROC_SUPER_MAGIC as u64 {
            return Err("apparmor failed to apply profile: /proc is not proc".into());
        }
    }
    // the kernel takes it in one write
    (&file)
        .write_all(format!("exec {profile}").as_bytes())
        .map_err(told)
}

#[cfg(test)]
mod tests;
