//! The files an ELF executable needs to run: interpreter and shared libraries, found as ld.so(8) does.

use crate::{Error, io};
use goblin::elf::Elf;
use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
};

/// The most files one closure may have.
const CLOSURE_FILES_MAX: usize = 1024;

/// Folders ld.so looks in last: the multi-arch and the classic ones, and what /etc/ld.so.conf.d adds.
fn default_dirs() -> Vec<PathBuf> {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let mut dirs: Vec<PathBuf> = ["/lib", "/usr/lib", "/usr/local/lib"]
        .iter()
        .flat_map(|d| [Path::new(d).join(&triple), PathBuf::from(d)])
        .chain([PathBuf::from("/lib64"), PathBuf::from("/usr/lib64")])
        .collect();
    let mut conf: Vec<_> = fs::read_dir("/etc/ld.so.conf.d")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    conf.sort();
    for file in conf {
        let text = fs::read_to_string(file).unwrap_or_default();
        dirs.extend(
            text.lines()
                .map(str::trim)
                .filter(|l| l.starts_with('/'))
                .map(PathBuf::from),
        );
    }
    dirs
}

/// Every path `executable` needs at run time, itself left out: each as the name it is looked up by,
/// so a symbolic link stands for the file behind it. A script or a static executable needs none.
pub(crate) fn closure(executable: &Path) -> Result<BTreeSet<PathBuf>, Error> {
    let dirs = default_dirs();
    let mut found = BTreeSet::new();
    let mut queue = VecDeque::from([executable.to_path_buf()]);
    while let Some(path) = queue.pop_front() {
        let bytes = fs::read(&path).map_err(io(&path))?;
        if !bytes.starts_with(b"\x7fELF") {
            continue;
        }
        let fail = |why: String| Error::Pack {
            path: path.clone(),
            why,
        };
        let elf = Elf::parse(&bytes).map_err(|e| fail(format!("not a readable ELF file: {e}")))?;
        if let Some(interpreter) = elf.interpreter {
            let interpreter = PathBuf::from(interpreter);
            if found.insert(interpreter.clone()) {
                queue.push_back(interpreter);
            }
        }
        let origin = path.canonicalize().unwrap_or(path.clone());
        let origin = origin
            .parent()
            .unwrap_or(Path::new("/"))
            .display()
            .to_string();
        let run_paths: Vec<PathBuf> = elf
            .rpaths
            .iter()
            .chain(&elf.runpaths)
            .flat_map(|p| p.split(':'))
            .map(|p| PathBuf::from(p.replace("$ORIGIN", &origin).replace("${ORIGIN}", &origin)))
            .collect();
        for library in &elf.libraries {
            let hit = if library.contains('/') {
                Some(PathBuf::from(library)).filter(|p| p.exists())
            } else {
                run_paths
                    .iter()
                    .chain(&dirs)
                    .map(|d| d.join(library))
                    .find(|p| same_class(p, elf.is_64))
            };
            let hit = hit.ok_or_else(|| {
                fail(format!("it needs {library}, which is nowhere in the library path: install the package that has it"))
            })?;
            if found.insert(hit.clone()) {
                queue.push_back(hit);
            }
        }
        if found.len() > CLOSURE_FILES_MAX {
            return Err(fail(format!(
                "it needs more than {CLOSURE_FILES_MAX} libraries"
            )));
        }
    }
    Ok(found)
}

/// Is this an ELF file of the same word size? (A 32-bit library may come first in the path.)
fn same_class(path: &Path, is_64: bool) -> bool {
    use std::io::Read;
    let mut head = [0u8; 5];
    fs::File::open(path)
        .and_then(|mut f| f.read_exact(&mut head))
        .is_ok()
        && head.starts_with(b"\x7fELF")
        && head[4] == if is_64 { 2 } else { 1 }
}
