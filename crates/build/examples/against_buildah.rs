//! Carries the cases of `tests/data/copy.txt` out here and by `buildah`, and prints where the trees differ:
//! `cargo run -p knarr-build --example against_buildah -- buildah FOLDER [NAME]`. The folder holds buildah's storage.
//! A difference that the table explains (`-- buildah`) is BuildKit's way; others make it fail. Needs root.
#![allow(dead_code)]

#[path = "../tests/copying/mod.rs"]
mod copying;

use copying::{Case, carry_out, cases, make, tree, trees};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

struct Buildah {
    program: String,
    folder: PathBuf,
}

impl Buildah {
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let storage = self.folder.join("storage");
        let done = Command::new(&self.program)
            .arg("--root")
            .arg(storage.join("root"))
            .arg("--runroot")
            .arg(storage.join("run"))
            .args(["--storage-driver", "vfs"])
            .args(arguments)
            .output()
            .map_err(|e| e.to_string())?;
        let text = |b: &[u8]| String::from_utf8_lossy(b).trim().to_owned();
        match done.status.success() {
            true => Ok(text(&done.stdout)),
            false => Err(text(&done.stderr)),
        }
    }

    /// Builds and gives the tree.
    fn build(&self, context: &Path, dockerfile: &str, tag: &str) -> Result<(), String> {
        let file = context.with_extension("dockerfile");
        fs::write(&file, dockerfile).map_err(|e| e.to_string())?;
        let (file, context) = (file.to_string_lossy(), context.to_string_lossy());
        self.run(&[
            "bud",
            "--pull-never",
            "--no-cache",
            "-t",
            tag,
            "-f",
            &file,
            &context,
        ])?;
        Ok(())
    }

    /// An image of these files, owners kept.
    fn image(&self, case: &Case, section: &str) -> Result<(), String> {
        let folder = self.folder.join("files");
        let context = self.folder.join("base");
        for path in [&folder, &context] {
            let _ = fs::remove_dir_all(path);
            fs::create_dir_all(path).map_err(|e| e.to_string())?;
        }
        make(&folder, case.get(section));
        let done = Command::new("tar")
            .arg("-cf")
            .arg(context.join("files.tar"))
            .arg("-C")
            .arg(&folder)
            .arg(".")
            .status();
        done.map_err(|e| e.to_string())?;
        let tag = format!("localhost/{section}");
        let empty = case.get(section).trim().is_empty();
        let add = if empty { "" } else { "ADD files.tar /\n" };
        self.build(&context, &format!("FROM scratch\n{add}LABEL a=b\n"), &tag)
    }

    fn case(&self, case: &Case, context: &Path) -> Result<String, String> {
        self.image(case, "image")?;
        self.image(case, "from")?;
        if !case.get("ignore").is_empty() {
            let path = context.join(".dockerignore");
            let own = format!("{}\n.dockerignore\n", case.get("ignore").trim());
            fs::write(path, own).map_err(|e| e.to_string())?;
        }
        let text = case
            .get("dockerfile")
            .replace("--from=base", "--from=localhost/from");
        self.build(
            context,
            &format!("FROM localhost/image\n{text}"),
            "localhost/case",
        )?;
        let name = self.run(&["from", "--pull-never", "localhost/case"])?;
        let root = self.run(&["mount", &name]);
        let tree = root.map(|root| tree(Path::new(&root)));
        self.run(&["rm", &name])?;
        tree
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [program, folder, rest @ ..] = &arguments[..] else {
        panic!("say: BUILDAH FOLDER [NAME]");
    };
    let buildah = Buildah {
        program: program.clone(),
        folder: PathBuf::from(folder),
    };
    let text = include_str!("../tests/data/copy.txt");
    let (mut same, mut explained, mut wrong) = (0, 0, 0);
    for case in cases(text) {
        if rest.first().is_some_and(|name| *name != case.name) {
            continue;
        }
        let temp = tempfile::tempdir_in(folder).unwrap();
        let (context, from) = trees(&case, temp.path());
        let root = temp.path().join("root");
        fs::create_dir(&root).unwrap();
        make(&root, case.get("image"));
        let ours = carry_out(&case, &context, &from, &root);
        let ours = ours.map(|_| tree(&root)).map_err(|e| e.to_string());
        let theirs = buildah.case(&case, context.path());
        let note = case.sections.get("buildah");
        let alike = match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => ours == theirs,
            (Err(_), Err(_)) => true,
            _ => false,
        };
        match (alike, note) {
            (true, None) => same += 1,
            (true, Some(note)) => {
                same += 1;
                println!("== {}: the same, though {}", case.name, note.trim());
            }
            (false, Some(note)) => {
                explained += 1;
                println!("== {}: {}", case.name, note.trim());
            }
            (false, None) => {
                wrong += 1;
                println!(
                    "== {} DIFFERS\n-- here\n{ours:#?}\n-- buildah\n{theirs:#?}",
                    case.name
                );
            }
        }
    }
    println!("{same} the same, {explained} explained, {wrong} not");
    if wrong > 0 {
        std::process::exit(1);
    }
}
