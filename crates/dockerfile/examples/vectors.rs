//! Holds the reader against BuildKit's own vectors: `vectors PATH`, where PATH is BuildKit's `frontend/dockerfile` folder.
//! Prints what differs, and how many were the same.

use std::{collections::BTreeMap, path::Path};

use knarr_dockerfile::{Dockerfile, Escape, Words, dump, lines};

#[derive(Default)]
struct Count {
    same: usize,
    other: usize,
}

impl Count {
    fn check(&mut self, what: &str, got: &str, want: &str) {
        if got == want {
            self.same += 1;
        } else {
            self.other += 1;
            println!("{what}\n  want {want:?}\n  got  {got:?}");
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::args()
        .nth(1)
        .ok_or("usage: vectors PATH/TO/frontend/dockerfile")?;
    let root = Path::new(&root);
    let mut count = Count::default();
    for entry in std::fs::read_dir(root.join("parser/testfiles"))? {
        let folder = entry?.path();
        let text = std::fs::read_to_string(folder.join("Dockerfile"))?;
        let want = std::fs::read_to_string(folder.join("result"))?;
        let got = lines(&text)
            .and_then(|l| dump(&l))
            .unwrap_or_else(|e| e.to_string());
        count.check(
            &folder.display().to_string(),
            got.trim_end(),
            want.trim_end(),
        );
    }
    for entry in std::fs::read_dir(root.join("parser/testfiles-negative"))? {
        let folder = entry?.path();
        let text = std::fs::read_to_string(folder.join("Dockerfile"))?;
        let got = if Dockerfile::parse(&text).is_err() {
            "error"
        } else {
            "fine"
        };
        count.check(&folder.display().to_string(), got, "error");
    }
    let env: BTreeMap<String, String> = [
        ("PWD", "/home"),
        ("SHELL", "bash"),
        ("KOREAN", "한국어"),
        ("NULL", ""),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    for row in std::fs::read_to_string(root.join("shell/envVarTest"))?.lines() {
        let parts: Vec<&str> = row.split('|').map(str::trim).collect();
        if let ["A" | "U", input, want] = parts[..] {
            let got = Words::new(Escape::Backslash)
                .expand(input, &env)
                .map_or_else(|_| "error".into(), |e| e.text);
            count.check(input, &got, want);
        }
    }
    let mut env = BTreeMap::new();
    for row in std::fs::read_to_string(root.join("shell/wordsTest"))?.lines() {
        if let Some((key, value)) = row.strip_prefix("ENV ").and_then(|r| r.split_once('=')) {
            env.insert(key.to_owned(), value.to_owned());
        } else if let Some((input, want)) = row.split_once('|').filter(|_| !row.starts_with('#')) {
            let want = want.trim_start();
            let got = Words::new(Escape::Backslash)
                .expand(input.trim_end(), &env)
                .map_or_else(|_| "error".into(), |e| e.words.join(","));
            count.check(input, &got, want);
        }
    }
    println!("{} the same, {} not", count.same, count.other);
    Ok(())
}
