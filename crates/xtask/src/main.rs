//! The maintainers' tools. Not part of the product, not run by CI.
//!
//! It is: a generator of data that we own from sources that we don't, and the runner of upstream's test program.
//! It is not: needed to build or test knarr.
//! It must never know: the product's crates.
#![forbid(unsafe_code)]

mod conformance;
mod fuzz;
mod go_source;
mod schema_table;
mod smd_defaults;

use std::path::PathBuf;

const USAGE: &str = "usage: xtask schema-table <definitions.json> <go module cache>/k8s.io <kubernetes version, e.g. v0.36.0> <output folder>

  definitions.json   the `_definitions.json` of PyPI's kubernetes-validate (kubernetes-json-schema/v1.36.0-local)
  k8s.io             holds api@VERSION, apimachinery@VERSION, client-go@VERSION, apiextensions-apiserver@VERSION, kube-aggregator@VERSION (`go mod download` puts them there)
  output folder      crates/schema/data

       xtask conformance --e2e <program> [--knarr <program>] [--nodes <n>] [--images <folder>] [--focus <regexp>] [--skip <regexp>] [--report <file>]
                         [--ginkgo <program> --procs <n>] [-- <argument>...]

  --e2e      upstream's end-to-end test program (e2e.test), which you bring
  --knarr    the program under test (default: the one built beside xtask)
  --nodes    how many nodes the platform is to have
  --images   folder of image archives (*.tar) that the cases' containers need
  --ginkgo   with --procs: runs the cases in so many processes side by side
  --report   where the test program's JSON report goes (default: target/conformance.json)
  --         what follows is handed to the test program

       xtask fuzz --target <cel|decoder|protobuf|bodies|patch|selector|paths> [--minutes <n>] [--seed <n>]";

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["schema-table", definitions, modules, version, out] => {
            schema_table::run(&schema_table::Sources {
                definitions: PathBuf::from(definitions),
                modules: PathBuf::from(modules),
                version: (*version).to_owned(),
                out: PathBuf::from(out),
            })
        }
        ["conformance", arguments @ ..] => {
            conformance::run(&conformance::options(arguments)?, arguments)
        }
        ["fuzz", arguments @ ..] => fuzz::run(arguments),
        _ => anyhow::bail!("{USAGE}"),
    }
}
