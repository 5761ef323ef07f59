//! How the program is linked: to a fixed address, and with what an idle platform runs side by side.

use std::{collections::HashSet, env, path::Path, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=order.txt");
    // With PIE the loader would rewrite 0.8 MB of tables in each process, and every container's shim is a process of this
    // program: pages that can't be shared any more.
    println!("cargo:rustc-link-arg-bins=-no-pie");
    if env::var("PROFILE").as_deref() == Ok("release") && lld() {
        order();
    }
}

/// The kernel maps a file's pages sixteen at a time around each that is touched, and the idle platform's functions, some
/// 2 MB of them, would be strewn over all of the program: they alone would hold 22 MB of it in memory.
///
/// `order.txt` is made by `cargo xtask order`: crate and name of each. Names end with a hash that another compiler,
/// dependency or type changes, so those whose whole names are still known come first, then what is called so but for the hash.
/// Nothing depends on a name being found.
fn order() -> Option<()> {
    let list = std::fs::read_to_string("order.txt").ok()?;
    let lines: Vec<(&str, &str)> = list.lines().filter_map(|l| l.split_once(' ')).collect();
    let mut script = String::from("SECTIONS {\n.text.idle : {\n*(");
    for (_, name) in &lines {
        script += &format!(".text.{name}\n");
    }
    script += ")\n";
    // the lines' order says which names find little else
    for run in lines.chunk_by(|a, b| a.0 == b.0) {
        let mut known = HashSet::new();
        let names = run.iter().map(|(_, name)| without_hash(name));
        let names: String = names
            .filter(|name| known.insert(*name))
            .map(|name| format!(".text.{name}*\n"))
            .collect();
        script += &match run[0].0 {
            "-" => continue,
            "knarr" => format!("*/knarr-*.rcgu.o(EXCLUDE_FILE(*.rcgu.o.rcgu.o) {names})\n"),
            other => format!("*.{other}-*.rcgu.o.rcgu.o({names})\n"),
        };
    }
    script += "}\n} INSERT BEFORE .text;\n";
    let path = Path::new(&env::var_os("OUT_DIR")?).join("order.ld");
    let path = path.to_str().filter(|path| !path.contains(','))?;
    std::fs::write(path, script).ok()?;
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{path}");
    Some(())
}

/// `…17h0123456789abcdefE.llvm.123` → `…17h`
fn without_hash(name: &str) -> &str {
    let name = name.split(".llvm.").next().unwrap_or(name);
    let hash = name.len().saturating_sub("0123456789abcdefE".len());
    match name.split_at_checked(hash) {
        Some((start, _)) if start.ends_with("17h") => start,
        _ => name,
    }
}

/// Whether the compiler's own linker does it, as it does on x86_64 unless told otherwise: others don't know the argument.
fn lld() -> bool {
    let set = |name: &str| env::var(name).unwrap_or_default();
    let target = set("TARGET");
    if target != "x86_64-unknown-linux-gnu" || set("HOST") != target {
        return false;
    }
    let flags = set("CARGO_ENCODED_RUSTFLAGS");
    if env::var_os("RUSTC_LINKER").is_some() || flags.contains("link") {
        return false;
    }
    let sysroot = Command::new(set("RUSTC"))
        .args(["--print", "sysroot"])
        .output();
    let Ok(sysroot) = sysroot else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
    Path::new(&sysroot)
        .join("lib/rustlib")
        .join(target)
        .join("bin/rust-lld")
        .is_file()
}
