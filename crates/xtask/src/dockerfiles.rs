//! `knarr build` beside dockerd's BuildKit, on small Dockerfiles with a trick each (`data/dockerfiles.txt`): the same
//! configuration, history, layers entry by entry, warnings and errors. Nothing of how fast they are: that is [`crate::builds`].

mod cases;
mod image;

use crate::builds::{docker::Docker, text};
use anyhow::{Context, bail, ensure};
use cases::Case;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

pub struct Options {
    knarr: PathBuf,
    /// Folder with dockerd, containerd, runc, docker and its buildx.
    docker: PathBuf,
    cases: PathBuf,
    focus: String,
    jobs: usize,
}

pub fn options(arguments: &[&str]) -> anyhow::Result<Options> {
    let mut all = Options {
        knarr: std::env::current_exe()?.with_file_name("knarr"),
        docker: std::env::var_os("BENCH_DOCKER")
            .map(PathBuf::from)
            .unwrap_or_default(),
        cases: concat!(env!("CARGO_MANIFEST_DIR"), "/data/dockerfiles.txt").into(),
        focus: String::new(),
        jobs: 3,
    };
    for pair in arguments.chunks(2) {
        match pair {
            ["--knarr", path] => all.knarr = path.into(),
            ["--docker", path] => all.docker = path.into(),
            ["--cases", path] => all.cases = path.into(),
            ["--focus", text] => all.focus = (*text).to_owned(),
            ["--jobs", n] => all.jobs = n.parse::<usize>()?.max(1),
            _ => bail!("unknown argument {pair:?}"),
        }
    }
    ensure!(
        all.docker.join("usr/sbin/dockerd").exists(),
        "--docker: a folder with usr/sbin/dockerd is needed"
    );
    Ok(all)
}

struct World {
    options: Options,
    docker: Docker,
    dir: tempfile::TempDir,
    _servers: Vec<Server>,
}

/// Something that runs beside; gone with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What one of the two made of a case.
struct Outcome {
    success: bool,
    error: String,
    /// The lines of the Dockerfile about it.
    excerpt: Vec<String>,
    warnings: Vec<String>,
    image: Option<image::Image>,
}

pub fn run(options: Options) -> anyhow::Result<()> {
    let all = cases::read(&fs::read_to_string(&options.cases)?)?;
    let chosen: Vec<Case> = all
        .into_iter()
        .filter(|case| case.name.contains(&options.focus))
        .collect();
    let dir = tempfile::tempdir_in("/var/tmp")?;
    let docker = Docker::start(&options.docker, &dir.path().join("docker"))?;
    let served = dir.path().join("served");
    fs::create_dir(&served)?;
    let servers = serve(&served, docker.pid())?;
    let world = World {
        options,
        docker,
        dir,
        _servers: servers,
    };
    world.bases()?;
    let (next, differ) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let told = Mutex::new(());
    std::thread::scope(|scope| {
        for _ in 0..world.options.jobs {
            scope.spawn(|| {
                while let Some(case) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = match world.case(case) {
                        Ok(found) => found,
                        Err(e) => vec![format!("not compared: {e:#}")],
                    };
                    let unknown = found
                        .iter()
                        .filter(|line| !case.known.iter().any(|known| line.contains(known)));
                    let unknown: Vec<&String> = unknown.collect();
                    let _told = told.lock();
                    if !unknown.is_empty() {
                        differ.fetch_add(1, Ordering::Relaxed);
                        println!("== {}", case.name);
                    }
                    for line in unknown {
                        println!("    {line}");
                    }
                }
            });
        }
    });
    let differ = differ.into_inner();
    println!("{} cases, {differ} differ", chosen.len());
    ensure!(differ == 0, "{differ} differences");
    Ok(())
}

/// A folder at http://127.0.0.1:18080 and its repositories at git://127.0.0.1, here and in dockerd's network.
fn serve(folder: &Path, dockerd: u32) -> anyhow::Result<Vec<Server>> {
    let folder = folder.display().to_string();
    let http = [
        "python3",
        "-m",
        "http.server",
        "18080",
        "--bind",
        "127.0.0.1",
        "--directory",
        &folder,
    ];
    let base = format!("--base-path={folder}");
    let git = [
        "git",
        "daemon",
        "--reuseaddr",
        "--export-all",
        "--listen=127.0.0.1",
        &base,
        &folder,
    ];
    let mut all = vec![];
    for program in [&http[..], &git] {
        for net in [None, Some(format!("--net=/proc/{dockerd}/ns/net"))] {
            let mut words: Vec<String> = vec![];
            if let Some(net) = net {
                words.extend(["nsenter".to_owned(), net]);
            }
            words.extend(program.iter().map(|w| (*w).to_owned()));
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            all.push(Server(command.spawn().context(words.join(" "))?));
        }
    }
    Ok(all)
}

impl World {
    fn knarr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.options.knarr);
        command.arg("--data-dir").arg(self.dir.path().join("knarr"));
        command.args(arguments);
        command
    }

    /// `busybox:1` and `trigger:1` (with ONBUILD and much else in its configuration), for both.
    fn bases(&self) -> anyhow::Result<()> {
        let folder = self.dir.path().join("base");
        fs::create_dir_all(folder.join("bin"))?;
        fs::copy("/bin/busybox", folder.join("bin/busybox")).context("busybox-static is needed")?;
        let applets = text(Command::new("/bin/busybox").arg("--list"))?;
        for name in applets.lines().filter(|name| *name != "busybox") {
            std::os::unix::fs::symlink("busybox", folder.join("bin").join(name))?;
        }
        // what RUN is given is there, so that no layer has a trace of who made room for it
        for name in ["hosts", "hostname", "resolv.conf"] {
            fs::create_dir_all(folder.join("etc"))?;
            fs::write(folder.join("etc").join(name), "")?;
        }
        for sub in ["dev", "proc", "sys", "tmp", "usr/lib", "home/app"] {
            fs::create_dir_all(folder.join(sub))?;
        }
        fs::write(
            folder.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\nwww:x:33:33::/:/bin/sh\n",
        )?;
        fs::write(
            folder.join("etc/group"),
            "root:x:0:\nwww:x:33:\napps:x:1001:\nstaff:x:50:app\n",
        )?;
        for (name, dockerfile) in [
            (
                "busybox:1",
                "FROM scratch\nCOPY . /\nRUN chmod 1777 /tmp\nENV PATH=/usr/local/bin:/usr/bin:/bin\nCMD [\"sh\"]\n",
            ),
            (
                "trigger:1",
                "FROM busybox:1\nENV A=base B=\"two words\"\nLABEL base=1\nEXPOSE 80\nVOLUME /data\nUSER app\nWORKDIR /home/app\nENTRYPOINT [\"/bin/echo\"]\nCMD [\"x\"]\nHEALTHCHECK --interval=5s CMD true\nSTOPSIGNAL SIGINT\nSHELL [\"/bin/ash\", \"-c\"]\nONBUILD COPY a /from-trigger\nONBUILD RUN echo triggered $A > /home/app/t\nONBUILD ENV T=1\n",
            ),
        ] {
            let file = self.dir.path().join("Dockerfile.base");
            fs::write(&file, dockerfile)?;
            let (file, folder) = (file.display().to_string(), folder.display().to_string());
            text(&mut self.knarr(&["build", "--quiet", "-t", name, "-f", &file, &folder]))?;
            let archive = self.dir.path().join("base.tar").display().to_string();
            text(&mut self.knarr(&["image", "save", name, &archive]))?;
            self.docker.load(&archive)?;
            fs::remove_file(archive)?;
        }
        Ok(())
    }

    /// The differences.
    fn case(&self, case: &Case) -> anyhow::Result<Vec<String>> {
        let dir = tempfile::tempdir_in(self.dir.path())?;
        let context = dir.path().join("context");
        fs::create_dir(&context)?;
        if !case.dockerfile.is_empty() {
            fs::write(context.join("Dockerfile"), &case.dockerfile)?;
        }
        if !case.setup.is_empty() {
            let mut shell = Command::new("sh");
            shell.args(["-e", "-c", &case.setup]).current_dir(&context);
            shell.env("SERVED", self.dir.path().join("served"));
            // the same times at each run
            shell.env("GIT_AUTHOR_DATE", "2001-02-03T04:05:06Z");
            shell.env("GIT_COMMITTER_DATE", "2001-02-03T04:05:06Z");
            text(&mut shell)?;
        }
        let tag = format!(
            "case:{}",
            dir.path()
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .trim_start_matches('.')
                .to_lowercase()
        );
        let archive = |who: &str| dir.path().join(format!("{who}.tar"));
        let flags = format!("{} {}", case.flags, case.context);
        let network = match case.flags.contains("--network") {
            true => "",
            false => "--network=host",
        };
        let line = |more: &str| format!("exec \"$@\" {network} {more} {flags}");
        let mut theirs = Command::new("sh");
        theirs.args(["-c", &line(""), "sh"]);
        let program = self
            .docker
            .command(&["build", "--progress=plain", "-t", &tag]);
        with(&mut theirs, &program, &context);
        let theirs = self.outcome(&mut theirs)?;
        let mut ours = Command::new("sh");
        let output = format!(
            "-o type=docker,compression=uncompressed,dest={}",
            archive("ours").display()
        );
        ours.args(["-c", &line(&output), "sh"]);
        let program = self.knarr(&["build", "--progress=plain", "-t", &tag]);
        with(&mut ours, &program, &context);
        let mut ours = self.outcome(&mut ours)?;
        let mut theirs = theirs;
        if theirs.success {
            let path = archive("theirs").display().to_string();
            text(&mut self.docker.command(&["save", "-o", &path, &tag]))?;
            theirs.image = Some(image::read(&archive("theirs"))?);
            text(&mut self.docker.command(&["rmi", "--force", &tag]))?;
        }
        if ours.success {
            ours.image = Some(image::read(&archive("ours"))?);
        }
        Ok(differences(&ours, &theirs, case.times))
    }

    fn outcome(&self, command: &mut Command) -> anyhow::Result<Outcome> {
        let output = command.output().with_context(|| format!("{command:?}"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = without_colors(&said);
        let warnings = said.lines().filter(|line| line.starts_with(" - "));
        // BuildKit tells them as they come
        let warnings: BTreeSet<String> = warnings.map(str::to_owned).collect();
        let (excerpt, error) = error(&said);
        Ok(Outcome {
            success: output.status.success(),
            excerpt,
            error,
            warnings: warnings.into_iter().collect(),
            image: None,
        })
    }
}

/// `command`, which is a shell, runs `program` in a folder.
fn with(command: &mut Command, program: &Command, folder: &Path) {
    command.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.current_dir(folder);
}

fn without_colors(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| {
        all + part.split_once('m').map_or("", |(_, rest)| rest)
    })
}

/// The excerpt of the Dockerfile and the error's line, without what only says who failed or where its folders are.
fn error(said: &str) -> (Vec<String>, String) {
    let (mut lines, mut error) = (vec![], String::new());
    let mut all = said.lines().peekable();
    while let Some(line) = all.next() {
        if let Some(mut rest) = line.strip_prefix("ERROR: ") {
            for who in [
                "failed to build: ",
                "failed to solve: ",
                "failed to run Build function: ",
                "invalid argument: ",
            ] {
                rest = rest.strip_prefix(who).unwrap_or(rest);
            }
            rest.clone_into(&mut error);
        } else if all
            .peek()
            .is_some_and(|next| next.starts_with("--------------------"))
            || line
                .get(..7)
                .is_some_and(|start| start.trim_end().ends_with('|'))
        {
            // some come twice
            if !lines.iter().any(|known| known == line) {
                lines.push(line.to_owned());
            }
        }
    }
    let words = error
        .split(' ')
        .map(|word| match word.rsplit_once("/merged/") {
            Some((_, inside)) => format!("/{inside}"),
            None if word.contains("::") && word.ends_with(':') => "context:".into(),
            None => word.to_owned(),
        });
    (lines, words.collect::<Vec<_>>().join(" "))
}

fn differences(ours: &Outcome, theirs: &Outcome, times: bool) -> Vec<String> {
    let mut found = vec![];
    if ours.success != theirs.success || ours.error != theirs.error {
        found.push(format!(
            "error: {} {}\n      knarr    {}\n      BuildKit {}",
            ours.success, theirs.success, ours.error, theirs.error
        ));
    }
    let both = !ours.excerpt.is_empty() && !theirs.excerpt.is_empty();
    if both && ours.excerpt != theirs.excerpt {
        let said = |outcome: &Outcome| outcome.excerpt.join("\n        ");
        found.push(format!(
            "excerpt:\n        {}\n        {}",
            said(ours),
            said(theirs)
        ));
    }
    if ours.warnings != theirs.warnings {
        found.push(format!(
            "warnings: knarr {:#?}, BuildKit {:#?}",
            ours.warnings, theirs.warnings
        ));
    }
    let (Some(ours), Some(theirs)) = (&ours.image, &theirs.image) else {
        return found;
    };
    let keys: BTreeSet<&String> = ours.config.keys().chain(theirs.config.keys()).collect();
    for key in keys {
        let (a, b) = (ours.config.get(key), theirs.config.get(key));
        if a != b {
            found.push(format!("config {key}: knarr {a:?}, BuildKit {b:?}"));
        }
    }
    for i in 0..ours.history.len().max(theirs.history.len()) {
        let (a, b) = (ours.history.get(i), theirs.history.get(i));
        if a != b {
            found.push(format!(
                "history {i}:\n      knarr    {a:?}\n      BuildKit {b:?}"
            ));
        }
    }
    if ours.layers.len() != theirs.layers.len() {
        found.push(format!(
            "layers: knarr {}, BuildKit {}",
            ours.layers.len(),
            theirs.layers.len()
        ));
        return found;
    }
    for (i, (a, b)) in ours.layers.iter().zip(&theirs.layers).enumerate() {
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for name in names {
            let say = |entry: Option<&image::Entry>| entry.map(|entry| entry.said(times));
            let (a, b) = (say(a.get(name)), say(b.get(name)));
            if a != b {
                found.push(format!("layer {i} {name}: knarr {a:?}, BuildKit {b:?}"));
            }
        }
    }
    found
}
