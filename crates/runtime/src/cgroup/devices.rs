//! Which devices a container's processes may open and make.

use std::{fmt, fs, io, str::FromStr};

use super::{Group, Leaf, device_program::assemble, write_to};
use crate::{
    bpf,
    error::{During, Error},
    spec::Device,
};

/// SOURCE: runc libcontainer/specconv AllowedDevices.
const ALWAYS: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// Some devices, and what may be done with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    /// else character devices
    pub(crate) block: bool,
    /// None: any
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) make: bool,
}

/// As v1's `devices.allow` takes it.
impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Rule, String> {
        let read = || {
            let mut fields = text.split(' ');
            let (kind, numbers, access) = (fields.next()?, fields.next()?, fields.next()?);
            let (major, minor) = numbers.split_once(':')?;
            let number = |text: &str| match text {
                "*" => Some(None),
                number => number.parse().ok().map(Some),
            };
            Some(Rule {
                block: kind == "b",
                major: number(major)?,
                minor: number(minor)?,
                read: access.contains('r'),
                write: access.contains('w'),
                make: access.contains('m'),
            })
        };
        read().ok_or_else(|| format!("{text:?} is no rule about devices"))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let kind = if self.block { 'b' } else { 'c' };
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        [(self.read, "r"), (self.write, "w"), (self.make, "m")]
            .iter()
            .filter(|(on, _)| *on)
            .try_for_each(|(_, letter)| f.write_str(letter))
    }
}

impl Rule {
    fn of(device: &Device) -> Rule {
        Rule {
            block: device.block,
            major: Some(device.major),
            minor: Some(device.minor),
            read: device.access.contains('r'),
            write: device.access.contains('w'),
            make: device.access.contains('m'),
        }
    }
}

/// What a rule of Docker's says, which may be about both kinds of devices (`a *:* rwm`).
fn both_kinds(text: &str) -> Result<Vec<Rule>, String> {
    let one = |text: &str| {
        let rule: Rule = text.parse()?;
        match matches!(text.as_bytes().first(), Some(b'b' | b'c')) && text.as_bytes()[1] == b' ' {
            true => Ok(rule),
            false => Err(format!("{text:?} is no rule about devices")),
        }
    };
    match text.strip_prefix("a ") {
        Some(rest) => ["b", "c"]
            .map(|k| one(&format!("{k} {rest}")))
            .into_iter()
            .collect(),
        None => Ok(vec![one(text)?]),
    }
}

/// The usual devices and those given, and what further rules say.
fn list(more: &[Device], rules: &[String]) -> Result<Vec<Rule>, String> {
    // the constants are rules: a test reads each
    let always = ALWAYS.iter().filter_map(|rule| rule.parse().ok());
    let mut all: Vec<Rule> = always.chain(more.iter().map(Rule::of)).collect();
    for rule in rules {
        all.extend(both_kinds(rule)?);
    }
    Ok(all)
}

/// Whether this kernel takes lists of devices for v2 (`CONFIG_CGROUP_BPF`, and nobody has forbidden it).
pub(crate) fn has_programs() -> bool {
    bpf::load_device_program(&assemble(&[])).is_ok()
}

impl Group {
    /// Only the usual devices and those given, or that `rules` are about. On a kernel without programs nothing is done on v2: see `Inner::process`, which
    /// takes the right to make devices then.
    pub(crate) fn restrict_devices(&self, more: &[Device], rules: &[String]) -> Result<(), Error> {
        let allowed = list(more, rules)
            .map_err(std::io::Error::other)
            .during(|| "limiting the devices".into())?;
        let Some(leaf) = self.leaf("devices") else {
            return Ok(());
        };
        match leaf.v2 {
            true if has_programs() => self.attach_list(leaf, &allowed),
            true => Ok(()),
            false => write_list(leaf, &allowed),
        }
    }

    fn attach_list(&self, leaf: &Leaf, allowed: &[Rule]) -> Result<(), Error> {
        let told = || format!("limiting the devices of {}", leaf.path.display());
        let program = bpf::load_device_program(&assemble(allowed)).during(told)?;
        let folder = fs::File::open(&leaf.path).during(told)?;
        bpf::attach_device_program(&folder, &program).during(told)
    }
}

fn write_list(leaf: &Leaf, allowed: &[Rule]) -> Result<(), Error> {
    let deny = leaf.path.join("devices.deny");
    write_to(&deny, "a").during(|| format!("writing {}", deny.display()))?;
    let allow = leaf.path.join("devices.allow");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&allow)
        .during(|| format!("opening {}", allow.display()))?;
    for rule in allowed {
        let rule = rule.to_string();
        io::Write::write_all(&mut &file, rule.as_bytes())
            .during(|| format!("writing {rule:?} to {}", allow.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{path::Path, process::Command};

    #[test]
    fn rules_are_read_as_they_are_written() {
        for rule in ALWAYS.iter().chain(&["b 8:* r", "c 10:200 rw"]) {
            assert_eq!(rule.parse::<Rule>().unwrap().to_string(), *rule);
        }
        assert!("c 1 rwm".parse::<Rule>().is_err());
        let shown = |rules: &[&str]| {
            let rules: Vec<String> = rules.iter().map(|r| r.to_string()).collect();
            let all = list(&[], &rules)?;
            let more = all.iter().skip(ALWAYS.len()).map(Rule::to_string);
            Ok::<_, String>(more.collect::<Vec<_>>().join(", "))
        };
        for (rules, wanted) in [
            (&[][..], Some("")),
            (&["c 189:* rmw", "b 8:0 r"], Some("c 189:* rwm, b 8:0 r")),
            (&["a *:* rwm"], Some("b *:* rwm, c *:* rwm")),
            (&["d 1:1 r"], None),
            (&["cc 1:1 r"], None),
            (&["a 1 r"], None),
            (&["c -1:1 r"], None),
            (&[""], None),
        ] {
            assert_eq!(shown(rules).ok().as_deref(), wanted, "{rules:?}");
        }
    }

    /// A v2 tree of the test's own, unmounted when dropped.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn mount() -> Tree {
            assert!(
                rustix::process::geteuid().is_root(),
                "this test mounts a cgroup tree: run it as root"
            );
            let dir = tempfile::tempdir().unwrap();
            let mounted = Command::new("mount")
                .args(["-t", "cgroup2", "none"])
                .arg(dir.path())
                .status()
                .unwrap();
            assert!(mounted.success());
            Tree(dir)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0.path()).status();
        }
    }

    /// What the shell says when it tries a command inside the cgroup.
    fn tried(cgroup: &Path, command: &str) -> String {
        let script = format!("echo 0 > {}/cgroup.procs && {command}", cgroup.display());
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        match output.status.success() {
            true => "yes".into(),
            false => String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[test]
    fn a_v2_cgroup_has_a_list_of_devices() {
        let tree = Tree::mount();
        let nodes = tempfile::tempdir().unwrap();
        let path = tree
            .0
            .path()
            .join(format!("knarr-test-devices-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let group = Group {
            v2: true,
            depth: 1,
            leaves: vec![Leaf {
                path: path.clone(),
                controllers: vec![],
                v2: true,
            }],
        };
        let node = |name: &str, kind: &str, major: u32, minor: u32| {
            let path = nodes.path().join(name);
            let made = Command::new("mknod")
                .arg(&path)
                .args([kind, &major.to_string(), &minor.to_string()])
                .status();
            assert!(made.unwrap().success());
            path
        };
        let (null, mem) = (node("null", "c", 1, 3), node("mem", "c", 1, 1));
        let given = node("given", "c", 1, 11);
        let ruled = node("ruled", "c", 1, 2);
        let open = |path: &Path| format!(": < {}", path.display());
        // not every kernel has this device: what counts is who says no
        let before = tried(&path, &open(&mem));
        assert!(!before.contains("Operation not permitted"), "{before}");
        let device = Device {
            path: "/dev/kmsg".into(),
            block: false,
            major: 1,
            minor: 11,
            mode: 0o600,
            access: "r".into(),
        };
        group
            .restrict_devices(&[device], &["c 1:2 r".into()])
            .unwrap();
        for (name, command, wanted) in [
            ("an usual one", open(&null), "yes"),
            ("another one", open(&mem), "Operation not permitted"),
            ("a given one", open(&given), "yes"),
            (
                "a given one, but not so",
                format!(": >> {}", given.display()),
                "Operation not permitted",
            ),
            // no kernel of today has this one
            ("what a rule is about", open(&ruled), "No such device"),
            (
                "nodes may be made",
                format!("mknod {}/new c 1 1", nodes.path().display()),
                "yes",
            ),
        ] {
            let got = tried(&path, &command);
            assert!(got.contains(wanted), "{name}: {got}");
        }
        // the last one tried may be on its way out still
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while let Err(error) = fs::remove_dir(&path) {
            assert!(std::time::Instant::now() < end, "{error}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
