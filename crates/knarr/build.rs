//! Links the program to a fixed address. With PIE the loader would rewrite 0.8 MB of tables in each process, and every
//! container's shim is a process of this program: pages that can't be shared any more.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-no-pie");
}
