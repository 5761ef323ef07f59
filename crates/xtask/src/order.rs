//! Which functions a platform at rest runs: the linker puts them side by side, so that they take few pages of memory.
//!
//! The kernel maps a file's pages sixteen at a time. What an idle platform runs is some thousand small functions; strewn
//! over the whole program they hold most of it in memory.
//!
//! A line is a crate and a function's name, whose end is a hash of compiler, dependencies and types. `crates/knarr/build.rs`
//! takes it by the whole name first, and then by the crate and the name without the hash, which finds it again after most
//! changes, but also what else is called so (other instances of a generic function): lines are sorted by how much that is.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod trace;
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod trace {
    pub(super) fn entered(_: i32, _: &[u64], _: std::time::Duration) -> anyhow::Result<Vec<u64>> {
        anyhow::bail!("only Linux on x86_64 is known here: run it there")
    }
}

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// How long after its start a platform is at rest.
const SETTLED: Duration = Duration::from_secs(20);
/// What comes round at all comes round in this: watches are opened anew after 290 s, the node's status is told after 300 s.
const SECONDS: u64 = 330;
const OUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../knarr/order.txt");

/// Bytes of other functions that the name without its hash may find, for a line to be in the first part, and in the second.
const OTHERS: [u64; 2] = [500, 5000];

/// What is asked for.
pub struct Options {
    program: PathBuf,
    map: PathBuf,
    seconds: u64,
    out: PathBuf,
}

/// The arguments, read.
pub fn options(arguments: &[&str]) -> Result<Options> {
    let mut options = Options {
        program: PathBuf::new(),
        map: PathBuf::new(),
        seconds: SECONDS,
        out: OUT.into(),
    };
    for pair in arguments.chunks(2) {
        match pair {
            ["--knarr", value] => options.program = value.into(),
            ["--map", value] => options.map = value.into(),
            ["--seconds", value] => options.seconds = value.parse()?,
            ["--out", value] => options.out = value.into(),
            _ => bail!("not understood: {}", pair.join(" ")),
        }
    }
    ensure!(
        options.program.is_file() && options.map.is_file(),
        "--knarr and --map are needed: `cargo rustc --release -p knarr --bin knarr -- -C link-arg=-Wl,-Map=/tmp/knarr.map` makes both"
    );
    Ok(options)
}

/// A function as the linker knows it.
struct Function {
    at: u64,
    bytes: u64,
    /// `knarr` is the program's own; `-` has none, as what is written in C
    from: String,
    name: String,
}

impl Function {
    /// What it is found by when its hash is another.
    fn key(&self) -> (&str, &str) {
        let name = self.name.split(".llvm.").next().unwrap_or(&self.name);
        let hash = name.len().saturating_sub("17h0123456789abcdefE".len());
        let known = name.get(hash..).is_some_and(|end| end.starts_with("17h"));
        (&self.from, if known { &name[..hash] } else { name })
    }
}

/// Writes the list.
pub fn run(options: &Options) -> Result<()> {
    let map = fs::read_to_string(&options.map).context("reading the linker's map")?;
    let all = functions(&map)?;
    let addresses: Vec<u64> = all.iter().map(|f| f.at).collect();
    println!("{} functions in {}", all.len(), options.program.display());
    let platform = Platform::start(options)?;
    std::thread::sleep(SETTLED);
    let entered = trace::entered(
        platform.process.id().cast_signed(),
        &addresses,
        Duration::from_secs(options.seconds),
    )?;
    drop(platform);
    let ran: HashSet<u64> = entered.iter().copied().collect();
    let mut others: HashMap<(&str, &str), u64> = HashMap::new();
    for function in all.iter().filter(|f| !ran.contains(&f.at)) {
        *others.entry(function.key()).or_default() += function.bytes;
    }
    let part = |function: &Function| {
        let bytes = others.get(&function.key()).copied().unwrap_or_default();
        OTHERS.iter().filter(|most| bytes > **most).count()
    };
    let mut lines: Vec<&Function> = all.iter().filter(|f| ran.contains(&f.at)).collect();
    lines.sort_by_key(|f| (part(f), &f.from, &f.name));
    let mut text = String::new();
    for function in &lines {
        writeln!(text, "{} {}", function.from, function.name)?;
    }
    fs::write(&options.out, text)?;
    println!("{} of them ran: {}", lines.len(), options.out.display());
    Ok(())
}

/// The functions of the linker's map (lld's `-Map`) that are a section each.
fn functions(map: &str) -> Result<Vec<Function>> {
    let mut all = Vec::new();
    let mut seen = HashSet::new();
    for line in map.lines() {
        let Some((head, name)) = line.split_once(":(.text.") else {
            continue;
        };
        let Some(name) = name.strip_suffix(')') else {
            continue;
        };
        let mut words = head.split_ascii_whitespace();
        let (Some(at), Some(_), Some(bytes), Some(_), Some(file)) = (
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
        ) else {
            continue;
        };
        let (at, bytes) = (
            u64::from_str_radix(at, 16)?,
            u64::from_str_radix(bytes, 16)?,
        );
        if bytes == 0 || !seen.insert(at) {
            continue;
        }
        all.push(Function {
            at,
            bytes,
            from: from(file).to_owned(),
            name: name.to_owned(),
        });
    }
    ensure!(!all.is_empty(), "there is no function in the linker's map");
    Ok(all)
}

/// The crate that an object is made of: `…/knarr-HASH.CRATE-HASH.….rcgu.o.rcgu.o`, and `…/knarr-HASH.….rcgu.o` for the program.
fn from(file: &str) -> &str {
    let name = file.rsplit('/').next().unwrap_or(file);
    let Some(name) = name.strip_suffix(".rcgu.o") else {
        return "-";
    };
    if !name.ends_with(".rcgu.o") {
        return "knarr";
    }
    let other = name.split('.').nth(1).unwrap_or_default();
    other.rsplit_once('-').map_or("-", |(name, _)| name)
}

/// A platform in a network and mounts of its own; its end takes everything with it.
struct Platform {
    process: Child,
    data: tempfile::TempDir,
    program: PathBuf,
}

impl Platform {
    fn start(options: &Options) -> Result<Platform> {
        let data = tempfile::tempdir()?;
        let mut process = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c"])
            .arg("ip link set lo up && exec \"$0\" serve")
            .arg(&options.program)
            .env("KNARR_DATA_DIR", data.path())
            .env("KNARR_READY_FD", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare (of util-linux) does not start")?;
        let mut said = String::new();
        if let Some(out) = process.stdout.take() {
            BufReader::new(out).read_line(&mut said)?;
        }
        let platform = Platform {
            process,
            data,
            program: options.program.clone(),
        };
        ensure!(
            said.trim() == "ready",
            "the platform did not start (needs root): {said}"
        );
        Ok(platform)
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        let _ = Command::new("nsenter")
            .args(["--net", "--mount", "--target"])
            .arg(self.process.id().to_string())
            .arg(&self.program)
            .args(["stop", "--purge"])
            .env("KNARR_DATA_DIR", self.data.path())
            .stdout(Stdio::null())
            .status();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
