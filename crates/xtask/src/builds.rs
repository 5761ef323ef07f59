//! `knarr build` beside `buildah bud`, and dockerd's BuildKit where it can be started: the same Dockerfiles, how long each
//! takes cold and warm, in turns; and, beside buildah's, the same files and configuration.

mod cases;
pub mod docker;

use anyhow::{Context, bail, ensure};
use cases::cases;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

pub struct Options {
    pub knarr: PathBuf,
    pub buildah: PathBuf,
    /// Folder with Debian's docker.io and containerd unpacked; none: without them.
    pub docker: Option<PathBuf>,
    /// Each time is the middle one of so many.
    pub runs: usize,
    /// Only cases whose names hold this.
    pub focus: String,
}

pub fn options(arguments: &[&str]) -> anyhow::Result<Options> {
    let mut all = Options {
        knarr: std::env::current_exe()?.with_file_name("knarr"),
        buildah: "buildah".into(),
        docker: std::env::var_os("BENCH_DOCKER").map(PathBuf::from),
        runs: 3,
        focus: String::new(),
    };
    for pair in arguments.chunks(2) {
        match pair {
            ["--knarr", path] => all.knarr = path.into(),
            ["--buildah", path] => all.buildah = path.into(),
            ["--docker", path] => all.docker = Some(path.into()),
            ["--runs", n] => all.runs = n.parse::<usize>()?.max(1),
            ["--focus", text] => all.focus = (*text).to_owned(),
            _ => bail!("unknown argument {pair:?}"),
        }
    }
    Ok(all)
}

struct World {
    options: Options,
    /// Or why there is none.
    docker: Result<docker::Docker, String>,
    dir: tempfile::TempDir,
}

impl World {
    fn knarr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.options.knarr);
        command.arg("--data-dir").arg(self.dir.path().join("knarr"));
        command.args(arguments);
        command
    }
    fn buildah(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.options.buildah);
        // crun doesn't take hybrid cgroups
        if std::env::var_os("BUILDAH_RUNTIME").is_none() {
            command.env("BUILDAH_RUNTIME", "runc");
        }
        command.arg("--root").arg(self.dir.path().join("root"));
        command
            .arg("--runroot")
            .arg(self.dir.path().join("runroot"));
        command
            .args(["--storage-driver", "overlay"])
            .args(arguments);
        command
    }
    fn base(&self, name: &str) -> anyhow::Result<()> {
        let root = self.dir.path().join("base");
        fs::create_dir_all(root.join("bin"))?;
        fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox-static is needed")?;
        for link in [
            "sh", "cat", "echo", "mkdir", "rm", "id", "find", "wc", "seq", "dd", "cp", "ln",
            "chmod", "true", "env", "ls",
        ] {
            let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(link));
        }
        fs::create_dir_all(root.join("etc"))?;
        fs::create_dir_all(root.join("tmp"))?;
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        let mut dockerfile =
            "FROM scratch\nCOPY . /\nENV PATH=/usr/local/go/bin:/usr/local/bin:/usr/bin:/bin\n"
                .to_owned();
        let mut contexts = vec![];
        let mut more = |name: &str, folder: &str, to: &str| {
            dockerfile += &format!("COPY --from={name} . {to}\n");
            contexts.push(format!("--build-context={name}={folder}"));
        };
        match name {
            "golang:1" => {
                let root = text(Command::new("go").args(["env", "GOROOT"]))?;
                more("go", root.trim(), "/usr/local/go");
                dockerfile += "ENV GOTOOLCHAIN=local GOCACHE=/tmp/cache\n";
            }
            "node:20" => {
                for path in [
                    "/usr/lib/node_modules",
                    "/usr/local/lib/node_modules",
                    "/usr/share/nodejs",
                ] {
                    if Path::new(path).is_dir() {
                        let name = path.replace('/', "-").trim_start_matches('-').to_owned();
                        more(&name, path, path);
                    }
                }
                let program = text(Command::new("sh").args(["-c", "command -v node"]))?;
                self.with_libraries(Path::new(program.trim()), &root)?;
                for npm in ["/usr/bin/npm", "/usr/local/bin/npm"] {
                    if let Ok(target) = fs::canonicalize(npm) {
                        let link = root.join("bin/npm");
                        let _ = fs::remove_file(&link);
                        std::os::unix::fs::symlink(target, &link)?;
                        let _ = std::os::unix::fs::symlink("busybox", root.join("bin/which"));
                        fs::create_dir_all(root.join("usr/bin"))?;
                        let _ = std::os::unix::fs::symlink("/bin/env", root.join("usr/bin/env"));
                    }
                }
            }
            _ => {}
        }
        let file = self.dir.path().join("Dockerfile.base");
        fs::write(&file, dockerfile)?;
        let (file, folder) = (file.display().to_string(), root.display().to_string());
        let mut arguments = vec!["build", "--quiet", "-t", name, "-f", &file];
        arguments.extend(contexts.iter().map(String::as_str));
        arguments.push(&folder);
        run(&mut self.knarr(&arguments))?;
        let archive = self.dir.path().join("base.tar");
        let path = archive.display().to_string();
        run(&mut self.knarr(&["image", "save", name, &path]))?;
        let id = text(&mut self.buildah(&["pull", "--quiet", &format!("oci-archive:{path}")]))?;
        let full = format!("docker.io/library/{name}");
        run(&mut self.buildah(&["tag", id.trim(), &full]))?;
        if let Ok(docker) = &self.docker {
            docker.load(&path)?;
        }
        fs::remove_file(archive)?;
        Ok(())
    }

    /// A program of this machine with what it is linked to.
    fn with_libraries(&self, program: &Path, root: &Path) -> anyhow::Result<()> {
        let listed = text(Command::new("ldd").arg(program))?;
        let libraries = listed.split_whitespace().filter(|w| w.starts_with('/'));
        for path in libraries.map(Path::new).chain([program]) {
            let to = root.join(path.strip_prefix("/")?);
            fs::create_dir_all(to.parent().unwrap_or(root))?;
            fs::copy(path, to)?;
        }
        Ok(())
    }

    fn build(&self, who: Who, context: &Path, extra: &[&str]) -> anyhow::Result<Duration> {
        let context = context.display().to_string();
        let mut command = match who {
            Who::Knarr => self.knarr(&[
                "build",
                "--progress",
                "plain",
                "--cpu-shares",
                "1024",
                "-t",
                "made:1",
            ]),
            Who::Buildah => self.buildah(&[
                "bud",
                "--layers",
                "--format",
                "docker",
                "--pull-never",
                "--network",
                "host",
                "-t",
                "made:1",
            ]),
            Who::Docker => {
                let docker = self.docker.as_ref().map_err(|e| anyhow::anyhow!("{e}"))?;
                docker.command(&[
                    "build",
                    "--progress=plain",
                    "--network=host",
                    "-t",
                    "made:1",
                ])
            }
        };
        command.args(extra).arg(context);
        let since = Instant::now();
        run(&mut command)?;
        Ok(since.elapsed())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Knarr,
    Buildah,
    Docker,
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    text(command).map(drop)
}

pub fn text(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub fn compare(options: Options) -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in("/var/tmp")?;
    let docker = match &options.docker {
        Some(folder) => {
            docker::Docker::start(folder, &dir.path().join("docker")).map_err(|e| format!("{e:#}"))
        }
        None => Err("no folder of it was given".into()),
    };
    if let Err(why) = &docker {
        println!("without dockerd: {why}\n");
    }
    let world = World {
        options,
        docker,
        dir,
    };
    let mut rivals = vec![(Who::Buildah, "buildah")];
    if world.docker.is_ok() {
        rivals.push((Who::Docker, "dockerd"));
    }
    let mut bases = std::collections::BTreeSet::new();
    let mut differ = 0;
    let mut heading = "| seconds: median, most |".to_owned();
    for temperature in ["cold", "warm"] {
        heading += &format!(" knarr {temperature} |");
        for (_, name) in &rivals {
            heading += &format!(" {name} {temperature} | to ours |");
        }
    }
    println!(
        "{heading}\n|---{}",
        "|---:".repeat(heading.matches('|').count() - 2) + "|"
    );
    for case in cases() {
        if !case.name.contains(&world.options.focus) {
            continue;
        }
        if bases.insert(case.base) {
            world.base(case.base)?;
        }
        let context = tempfile::tempdir_in(world.dir.path())?;
        for (name, bytes) in case.files.iter().chain([&(
            "Dockerfile".to_owned(),
            case.dockerfile.clone().into_bytes(),
        )]) {
            let path = context.path().join(name);
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            fs::write(path, bytes)?;
        }
        let mut line = format!("| {} |", case.name);
        for extra in [&["--no-cache"][..], &[]] {
            line += &figures(&world, &rivals, context.path(), extra)?;
        }
        println!("{line}");
        let problems = differences(&world, context.path(), case.varies)?;
        differ += problems.len();
        for problem in problems {
            println!("    {problem}");
        }
    }
    run(&mut world.buildah(&["rmi", "--all", "--force"]))?;
    ensure!(differ == 0, "{differ} differences");
    Ok(())
}

/// A build of each in turns; the table's cells.
fn figures(
    world: &World,
    rivals: &[(Who, &str)],
    context: &Path,
    extra: &[&str],
) -> anyhow::Result<String> {
    let all: Vec<Who> = [Who::Knarr]
        .into_iter()
        .chain(rivals.iter().map(|(who, _)| *who))
        .collect();
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); all.len()];
    // a warm build is the second of its kind
    let warming = usize::from(extra.is_empty());
    for round in 0..world.options.runs + warming {
        for (who, times) in all.iter().zip(&mut times) {
            let took = world.build(*who, context, extra)?;
            if round >= warming {
                times.push(took.as_secs_f64());
            }
        }
    }
    let mut cells = String::new();
    let mut ours = f64::NAN;
    for (who, mut times) in all.into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let most = times.last().copied().unwrap_or(median);
        cells += &format!(" {median:.3}, {most:.3} |");
        match who {
            Who::Knarr => ours = median,
            _ => cells += &format!(" {:.1} |", median / ours),
        }
    }
    Ok(cells)
}

/// What the two make of the same, told apart.
fn differences(world: &World, context: &Path, varies: bool) -> anyhow::Result<Vec<String>> {
    let out = world.dir.path().join("out");
    let _ = fs::remove_dir_all(&out);
    let place = |name: &str| out.join(name).display().to_string();
    fs::create_dir_all(&out)?;
    world.build(
        Who::Knarr,
        context,
        &["-o", &format!("type=local,dest={}", place("knarr"))],
    )?;
    world.build(
        Who::Knarr,
        context,
        &["-o", &format!("type=oci,dest={}", place("knarr.tar"))],
    )?;
    world.build(Who::Buildah, context, &[])?;
    run(&mut world.buildah(&[
        "push",
        "made:1",
        &format!("docker-archive:{}", place("buildah.tar")),
    ]))?;
    let mut found = vec![];
    if !varies {
        let container = text(&mut world.buildah(&["from", "--pull-never", "made:1"]))?;
        let mounted = text(&mut world.buildah(&["mount", container.trim()]))?;
        let ours = tree(&out.join("knarr"))?;
        let theirs = tree(Path::new(mounted.trim()));
        run(&mut world.buildah(&["rm", container.trim()]))?;
        let mut theirs = theirs?;
        // places for buildah's own mounts, which BuildKit takes out again
        for name in ["etc/hostname", "etc/hosts", "etc/resolv.conf", "run", "v"] {
            if !ours.contains_key(name) {
                theirs.remove(name);
            }
        }
        let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        for name in names {
            if ours.get(name) != theirs.get(name) {
                found.push(format!(
                    "{name}: knarr {:?}, buildah {:?}",
                    ours.get(name),
                    theirs.get(name)
                ));
            }
        }
    }
    let ours = config(&out, "knarr.tar", "index.json")?;
    let theirs = config(&out, "buildah.tar", "manifest.json")?;
    for key in [
        "User",
        "ExposedPorts",
        "Env",
        "Entrypoint",
        "Cmd",
        "Volumes",
        "WorkingDir",
        "StopSignal",
        "OnBuild",
        "Shell",
        "Healthcheck",
        "Labels",
    ] {
        let plain = |config: &Value| {
            let mut value = config["config"][key].clone();
            if let Some(labels) = value.as_object_mut() {
                labels.remove("io.buildah.version");
            }
            let empty = value.as_object().is_some_and(|o| o.is_empty())
                || value.as_array().is_some_and(Vec::is_empty)
                || value == ""
                || value == "/";
            if empty { Value::Null } else { value }
        };
        let (a, b) = (plain(&ours), plain(&theirs));
        if a != b {
            found.push(format!("config {key}: knarr {a}, buildah {b}"));
        }
    }
    Ok(found)
}

/// The image configuration in an archive.
fn config(out: &Path, archive: &str, index: &str) -> anyhow::Result<Value> {
    let dir = out.join(format!("{archive}.d"));
    fs::create_dir_all(&dir)?;
    run(Command::new("tar")
        .arg("-xf")
        .arg(out.join(archive))
        .arg("-C")
        .arg(&dir))?;
    let read = |name: &str| -> anyhow::Result<Value> {
        let path = dir.join(name);
        Ok(serde_json::from_slice(
            &fs::read(&path).with_context(|| path.display().to_string())?,
        )?)
    };
    let blob = |digest: &Value| {
        format!(
            "blobs/sha256/{}",
            digest
                .as_str()
                .unwrap_or_default()
                .trim_start_matches("sha256:")
        )
    };
    let index = read(index)?;
    match index[0]["Config"].as_str() {
        Some(name) => read(name),
        None => {
            let manifest = read(&blob(&index["manifests"][0]["digest"]))?;
            read(&blob(&manifest["config"]["digest"]))
        }
    }
}

/// Kind and mode, owner, content of all below a folder; not times.
fn tree(root: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            let name = path.strip_prefix(root)?.display().to_string();
            let content = if meta.is_symlink() {
                fs::read_link(&path)?.display().to_string()
            } else if meta.is_file() {
                use std::hash::{DefaultHasher, Hash, Hasher};
                let mut hash = DefaultHasher::new();
                fs::read(&path)?.hash(&mut hash);
                format!("{} bytes {:x}", meta.len(), hash.finish())
            } else {
                String::new()
            };
            let mode = if meta.is_symlink() { 0 } else { meta.mode() };
            all.insert(
                name,
                format!("{mode:o} {}:{} {content}", meta.uid(), meta.gid()),
            );
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
    Ok(all)
}
