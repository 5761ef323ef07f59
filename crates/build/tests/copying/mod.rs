//! Cases of `COPY` and `ADD` as text, made into folders and carried out; also used to compare with other builders.

use knarr_build::copy::{Copied, CopyRequest, Error, Source, Tree, copy};
use knarr_dockerfile::{Command, Dockerfile, Ignore};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command as Process,
};

/// One case of `tests/data/copy.txt`.
#[derive(Debug, Default, Clone)]
pub struct Case {
    pub name: String,
    /// Section (`context`, `image`, `from`, `ignore`, `dockerfile`, `tree`, `error`, `buildah`) to its text.
    pub sections: BTreeMap<String, String>,
}

impl Case {
    pub fn get(&self, section: &str) -> &str {
        self.sections.get(section).map_or("", |s| s.as_str())
    }
}

/// Reads the table: `== name`, `-- section`, and lines.
pub fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = vec![];
    let mut section = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            cases.push(Case {
                name: name.into(),
                ..Case::default()
            });
            continue;
        }
        let Some(case) = cases.last_mut() else {
            continue;
        };
        if let Some(name) = line.strip_prefix("-- ") {
            section = name.into();
            case.sections.entry(section.clone()).or_default();
        } else if let Some(text) = case.sections.get_mut(&section) {
            text.push_str(line);
            text.push('\n');
        }
    }
    cases
}

/// Makes files: `file PATH MODE OWNER CONTENT`, `dir PATH MODE OWNER`, `link PATH TARGET`, `hard PATH FIRST`, `fifo PATH`,
/// `socket PATH`, `tar PATH COMPRESSION` (of the folder `PATH.d`, which goes), `cap PATH HEX`.
pub fn make(root: &Path, lines: &str) {
    for line in lines.lines().filter(|l| !l.trim().is_empty()) {
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        let path = root.join(words[1]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let own = |path: &Path, mode: &str, owner: &str| {
            let (uid, gid) = owner.split_once(':').unwrap();
            std::os::unix::fs::lchown(path, uid.parse().ok(), gid.parse().ok()).unwrap();
            let mode = u32::from_str_radix(mode, 8).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        match words[0] {
            "file" => {
                let content = words.get(4).copied().unwrap_or_default();
                fs::write(&path, content.replace("\\n", "\n")).unwrap();
                own(&path, words[2], words[3]);
            }
            "dir" => {
                fs::create_dir_all(&path).unwrap();
                own(&path, words[2], words[3]);
            }
            "link" => symlink(words[2], &path).unwrap(),
            "hard" => fs::hard_link(root.join(words[2]), &path).unwrap(),
            "fifo" => {
                let done = Process::new("mkfifo").arg(&path).status().unwrap();
                assert!(done.success());
            }
            "socket" => {
                // its name may be at most 108 bytes long
                let short = tempfile::tempdir_in("/tmp").unwrap();
                std::os::unix::net::UnixListener::bind(short.path().join("s")).unwrap();
                fs::rename(short.path().join("s"), &path).unwrap();
            }
            "tar" => {
                let folder = root.join(format!("{}.d", words[1]));
                let flag = match words[2] {
                    "gzip" => "-z",
                    "bzip2" => "-j",
                    "xz" => "-J",
                    "zstd" => "--zstd",
                    _ => "--no-auto-compress",
                };
                let done = Process::new("tar")
                    .args([flag, "--sort=name", "-cf"])
                    .arg(&path)
                    .arg("-C")
                    .arg(&folder)
                    .arg(".")
                    .status()
                    .unwrap();
                assert!(done.success(), "tar {line}");
                fs::remove_dir_all(folder).unwrap();
            }
            other => panic!("{other} is no kind of file: {line}"),
        }
    }
}

/// A tree as lines, sorted: `PATH KIND MODE OWNER CONTENT`; the same name for hard links: `PATH hard FIRST`.
pub fn tree(root: &Path) -> String {
    let mut lines = vec![];
    let mut first = BTreeMap::new();
    lines_of(root, Path::new(""), &mut lines, &mut first);
    lines.join("\n")
}

fn lines_of(
    root: &Path,
    below: &Path,
    lines: &mut Vec<String>,
    first: &mut BTreeMap<u64, PathBuf>,
) {
    let mut entries: Vec<_> = fs::read_dir(root.join(below)).unwrap().flatten().collect();
    entries.sort_by_key(|e| e.file_name());
    for entry in entries {
        let path = below.join(entry.file_name());
        let meta = fs::symlink_metadata(root.join(&path)).unwrap();
        let name = String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
        let kind = meta.file_type();
        let head = format!("{:o} {}:{}", meta.mode() & 0o7777, meta.uid(), meta.gid());
        lines.push(if kind.is_dir() {
            format!("{name}/ {head}")
        } else if kind.is_symlink() {
            let target = fs::read_link(root.join(&path)).unwrap();
            format!(
                "{name} -> {} {}:{}",
                target.display(),
                meta.uid(),
                meta.gid()
            )
        } else if kind.is_fifo() {
            format!("{name} fifo {head}")
        } else if !kind.is_file() {
            format!("{name} special {head}")
        } else if let Some(first) = first.get(&meta.ino()) {
            format!("{name} hard {}", first.display())
        } else {
            if meta.nlink() > 1 {
                first.insert(meta.ino(), path.clone());
            }
            let content = fs::read(root.join(&path)).unwrap();
            let content = String::from_utf8_lossy(&content).replace('\n', "\\n");
            format!("{name} {head} {content}").trim_end().into()
        });
        if kind.is_dir() {
            lines_of(root, &path, lines, first);
        }
    }
}

/// Carries out all `COPY` and `ADD` of a case's Dockerfile into `root`.
pub fn carry_out(case: &Case, context: &Tree, from: &Tree, root: &Path) -> Result<Copied, Error> {
    let text = format!("FROM scratch\n{}", case.get("dockerfile"));
    let file = Dockerfile::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let mut workdir = "/".to_owned();
    let mut all = Copied::default();
    for step in &file.stages[0].instructions {
        let (sources, mut request, from_stage) = match &step.command {
            Command::Workdir(path) => {
                workdir = Path::new(&workdir).join(path).to_string_lossy().into();
                fs::create_dir_all(root.join(workdir.trim_start_matches('/'))).unwrap();
                continue;
            }
            Command::Copy(c) => {
                let mut request = empty(context, root);
                request.chown = c.chown.clone();
                request.chmod = c.chmod.clone();
                request.parents = c.parents;
                request.exclude = c.exclude.clone();
                request.link = c.link;
                (&c.sources, request, c.from.is_some())
            }
            Command::Add(a) => {
                let mut request = empty(context, root);
                request.chown = a.chown.clone();
                request.chmod = a.chmod.clone();
                request.exclude = a.exclude.clone();
                request.link = a.link;
                request.unpack = a.unpack.unwrap_or(true);
                (&a.sources, request, false)
            }
            other => panic!("{}: {other:?}", case.name),
        };
        if from_stage {
            request.from = from;
        }
        request.workdir = workdir.clone();
        request.destination = sources.destination.clone();
        request.sources = sources.paths.iter().cloned().map(Source::Path).collect();
        for inline in &sources.inline {
            request.sources.push(Source::Inline {
                name: inline.name.clone(),
                content: inline.text().into_bytes(),
            });
        }
        // what can be copied has a checksum, and the other way round as far as sources go
        let sum = knarr_build::copy::checksum(&request, None);
        let done = copy(&request);
        if let Ok(copied) = &done {
            sum.unwrap_or_else(|e| panic!("{}: copied without a checksum: {e}", case.name));
            all.warnings.extend(copied.warnings.clone());
        }
        done?;
    }
    Ok(all)
}

/// A request without sources.
pub fn empty<'a>(from: &'a Tree, into: &'a Path) -> CopyRequest<'a> {
    CopyRequest {
        sources: vec![],
        from,
        destination: "/".into(),
        workdir: "/".into(),
        chown: None,
        chmod: None,
        parents: false,
        exclude: vec![],
        link: false,
        unpack: false,
        times: None,
        into,
    }
}

/// The trees that a case copies from.
pub fn trees(case: &Case, folder: &Path) -> (Tree, Tree) {
    let dir = |name: &str| {
        let path = folder.join(name);
        fs::create_dir_all(&path).unwrap();
        make(&path, case.get(name));
        path
    };
    let ignore = Ignore::parse(case.get("ignore")).unwrap();
    let context = Tree::context("context", &dir("context"), ignore).unwrap();
    (context, Tree::root("base", &dir("from")).unwrap())
}
