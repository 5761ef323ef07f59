//! The maintainers' tools. Not part of the product, not run by CI.
//!
//! It is: generators of data that we own from sources that we don't, and runners of others' test programs, of public
//! projects, of benchmarks and of fuzz targets.
//! It is not: needed to build or test knarr.
//! It must never know: the product's crates.
#![deny(unsafe_code)]

mod archives;
mod bench;
mod builds;
mod compat;
mod compose;
mod conformance;
mod dockerfiles;
mod fuzz;
mod go_source;
mod order;
mod registry;
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

       xtask registry --suite <program> [--registry <host:port>] [--report <folder>]

  --suite    the OCI distribution conformance suite, which you bring: `go build` or, up to 1.1.1, `go test -c` in its folder
  --registry one that runs already (default: ours over a fresh store)
  --report   where the suite's reports go (default: target/registry)

       xtask compat --projects <folder> [--images <folder>] [--knarr <program>] [--data <folder>] [--only <part of a name>]

  --projects  checkouts of the public projects in data/compat.json
  --images    archives of the images that they name
  --data      the platform's data directory, made and removed (default: /var/lib/knarr-compat)

       xtask compose [--tests <folder>] [--files <folder> --docker-compose <program>] [--knarr <program>] [--data <folder>]

  --tests           a checkout of compose-spec/conformance-tests, whose Go sources are built; its scenarios use port 8080
  --files           compose files, in any folders below: `config` of both programs is compared
  --docker-compose  Docker's program, version 2
  --data            the platform's data directory, made and removed (default: /var/lib/knarr-compose)

       xtask archives [--knarr <program>] [--docker <folder>]

  what knarr saves, podman, skopeo and dockerd load, and the other way round; --docker as for builds

       xtask bench [<name>...|all] [--quick]

  without a name: what there is, what it needs, how long it takes
  --quick    few rounds of a debug build: shows that it works, not how fast it is

       xtask builds [--knarr <program>] [--buildah <program>] [--docker <folder>] [--runs <n>] [--focus <text>]

  --docker   Debian's docker.io and containerd, unpacked (`dpkg -x`): their dockerd is started for the comparison

  --runs     each time is the middle one of so many (default: 3)
  --focus    only the cases whose names hold this

       xtask dockerfiles --docker <folder> [--knarr <program>] [--cases <file>] [--focus <text>] [--jobs <n>]

  --docker   a folder with usr/sbin/dockerd, and containerd, runc, docker and (usr/libexec/docker/cli-plugins) docker-buildx
  --cases    default: data/dockerfiles.txt; python3 and git serve what the cases fetch, at 127.0.0.1:18080 and 9418
  --focus    only the cases whose names hold this

       xtask order --knarr <program> --map <file> [--seconds <n>] [--out <file>]

  --map      what the linker says of the program:
             `cargo rustc --release -p knarr --bin knarr -- -C link-arg=-Wl,-Map=/tmp/knarr.map` makes both
  --seconds  how long a platform at rest is looked at (default: 330)
  --out      where the list goes (default: crates/knarr/order.txt)

       xtask fuzz --target <NAME> [--minutes <n>] [--seed <n>]";

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
        ["registry", arguments @ ..] => registry::run(&registry::options(arguments)?),
        ["compat", arguments @ ..] => compat::run(arguments),
        ["compose", arguments @ ..] => compose::run(arguments),
        ["archives", arguments @ ..] => archives::run(archives::options(arguments)?),
        ["bench", arguments @ ..] => bench::run(arguments),
        ["builds", arguments @ ..] => builds::compare(builds::options(arguments)?),
        ["dockerfiles", arguments @ ..] => dockerfiles::run(dockerfiles::options(arguments)?),
        ["order", arguments @ ..] => order::run(&order::options(arguments)?),
        ["fuzz", arguments @ ..] => fuzz::run(arguments),
        _ => anyhow::bail!("{USAGE}"),
    }
}
