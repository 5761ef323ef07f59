//! Random Dockerfiles and ignore files in bounded amounts: none panics or runs without end.
//! `cargo run -p xtask -- fuzz --target dockerfile --minutes N` runs more of them.

#[allow(dead_code)]
#[path = "../../api/tests/fuzz/mutate.rs"]
mod mutate;

use knarr_dockerfile::{Build, Dockerfile, Ignore, Judged, Platform, Scope, check, dump, lines};
use mutate::{Mutator, rounds};
use std::collections::BTreeMap;

const SEEDS: [&str; 12] = [
    "# syntax=docker/dockerfile:1\n# escape=`\nFROM a AS b\nRUN dir `\n  c:\\\n",
    "# check=skip=all;error=true\nARG V=1 W\nFROM --platform=$BUILDPLATFORM alpine:${V:-3}\n",
    "FROM scratch\nCOPY --from=0 --chown=a:b --chmod=u+x --link a b*/ /c/\nADD --checksum=sha256:00 http://x/y /\n",
    "FROM x\nRUN <<EOF cat <<-'F' && echo ${A}\na\nEOF\n\tb $C\nF\n",
    "FROM x\nRUN --mount=type=cache,target=/x,id=y,sharing=locked --mount=type=secret,id=z --network=none true\n",
    "FROM x\nENV a=b c=\"d $e\" f='g \\' h\nENV old style value\nLABEL \"x y\"=z\n",
    "FROM x\nHEALTHCHECK --interval=5s --retries=3 CMD [\"a\", \"b\"]\nONBUILD ADD a b\nSTOPSIGNAL 9\n",
    "FROM x\nCMD [\"a\", \"\\u00e9\", \"$b\"]\nENTRYPOINT exec top -b\nSHELL [\"sh\", \"-c\"]\n",
    "FROM x\nRUN a && \\\n# comment\n\n  b \\\r\n c\n",
    "FROM x\nENV P=${A#*/} Q=${B%%.*} R=${C/a/b} S=${D//\\/\\//-} T=${E:?no} U=${F:+x}\n",
    "FROM x\nCOPY <<a <<\"b\" /d/\n$x\na\n$y\nb\nCOPY [\"a b\", \"c\"]\n",
    "FROM a AS b\nFROM b AS c\nCOPY --from=b --parents ./x/./y/**/*.z --exclude=*.q /\nEXPOSE 80/tcp 90-99\n",
];

const IGNORES: [&str; 5] = [
    "*\n!src\n!**/*.rs\n",
    "**/node_modules\n.git\n# c\n!a/b/../c\n",
    "[a-z]?/*\\*\n!/x/**/y\n",
    "**/**/a**b**/c\n!**\n",
    "a/b\n!a\n./x/\n",
];

#[test]
fn fuzz_dockerfile() {
    let mut m = Mutator::new("dockerfile");
    for _ in rounds(3000) {
        let seed = SEEDS[m.below(SEEDS.len())];
        let text = m.bytes(seed.as_bytes());
        let text = String::from_utf8_lossy(&text);
        let run = || {
            if let Ok(lines) = lines(&text) {
                let _ = dump(&lines);
            }
            let Ok(file) = Dockerfile::parse(&text) else {
                return;
            };
            let build = Build {
                args: BTreeMap::from([("V".into(), "$W/a".into())]),
                target: Platform::host(),
                host: Platform::host(),
                stage: None,
            };
            if let Ok(scope) = Scope::global(&file, &build) {
                for stage in &file.stages {
                    let _ = scope.expand(&stage.base, file.escape);
                    let _ = scope.expand_heredoc(&stage.base);
                }
            }
            let all = (0..file.stages.len()).collect();
            let _ = check(&file, &build, &all, None, &|_| Some(vec!["A=b/c.d".into()]));
        };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        assert!(done.is_ok(), "a panic: {} with {text:?}", m.told());
    }
}

#[test]
fn fuzz_ignore() {
    let mut m = Mutator::new("ignore");
    let names = ["a", "b", "src", "x.rs", "node_modules", "é", "[", "*"];
    for _ in rounds(3000) {
        let seed = IGNORES[m.below(IGNORES.len())];
        let text = m.bytes(seed.as_bytes());
        let text = String::from_utf8_lossy(&text);
        let Ok(ignore) = Ignore::parse(&text) else {
            continue;
        };
        let path: Vec<&str> = (0..1 + m.below(4))
            .map(|_| names[m.below(names.len())])
            .collect();
        let mut judged = Judged::default();
        let mut out = false;
        for depth in 1..=path.len() {
            (out, judged) = ignore.judge(&path[..depth].join("/"), &judged);
        }
        let path = path.join("/");
        // both ways to ask agree where nothing is brought back
        if !ignore.has_exceptions() {
            assert_eq!(
                out,
                ignore.leaves_out(&path),
                "{path} by {text:?}: {}",
                m.told()
            );
        }
        let _ = ignore.may_keep_below(&path);
    }
}
