//! What `--change` of `docker commit` and `docker import` means: lines of a Dockerfile that change a configuration alone.

use crate::error::{Fault, Result};
use knarr_dockerfile::{
    Command, CommandLine, Dockerfile, Escape, Health, KeyValue, Scope, WordsError,
};
use serde_json::{Value, json};

/// SOURCE: moby `builder/dockerfile/builder.go` validCommitCommands
const KNOWN: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "HEALTHCHECK",
    "ENV",
    "EXPOSE",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Changes the configuration of an image as these instructions say.
///
/// # Errors
/// For an instruction that isn't known or can't be part of a configuration.
pub fn change(config: &mut Value, lines: &[&str]) -> Result<()> {
    let lines: Vec<&str> = lines.iter().flat_map(|l| l.lines()).collect();
    let said = |line: &str| line.split_whitespace().next().map(str::to_uppercase);
    if lines.iter().all(|l| l.trim().is_empty()) {
        return Ok(());
    }
    if !config.is_object() {
        *config = json!({});
    }
    let file = Dockerfile::parse(&format!("FROM scratch\n{}\n", lines.join("\n")));
    let file = file.map_err(|e| {
        // one that is no instruction at all is told as the others
        let first = lines.get(e.line.saturating_sub(2)).copied();
        match first
            .and_then(said)
            .filter(|w| !KNOWN.contains(&w.as_str()))
        {
            Some(word) => Fault::bad(format!("{word} is not a valid change command")),
            None => Fault::bad(e.why),
        }
    })?;
    if file.stages.len() > 1 {
        return Err(Fault::bad("FROM is not a valid change command"));
    }
    let all = file
        .stages
        .first()
        .into_iter()
        .flat_map(|s| &s.instructions);
    for instruction in all.clone() {
        let word = instruction.command.name();
        if !KNOWN.contains(&word) {
            return Err(Fault::bad(format!("{word} is not a valid change command")));
        }
    }
    for instruction in all {
        apply(config, &instruction.command, file.escape)?;
    }
    Ok(())
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

fn apply(config: &mut Value, command: &Command, escape: Escape) -> Result<()> {
    let mut scope = Scope::of_image(&strings(&config["Env"]));
    let wrong = |e: WordsError| Fault::bad(e.to_string());
    let expand =
        |scope: &Scope, text: &str| scope.expand(text, escape).map(|e| e.text).map_err(wrong);
    match command {
        Command::Cmd(line) => config["Cmd"] = command_line(config, line),
        Command::Entrypoint(line) => {
            config["Entrypoint"] = command_line(config, line);
        }
        Command::Env(pairs) => {
            scope.env(pairs, escape).map_err(wrong)?;
            config["Env"] = json!(scope.image_env());
        }
        Command::Label(pairs) => {
            for KeyValue { key, value, .. } in pairs {
                let (key, value) = (expand(&scope, key)?, expand(&scope, value)?);
                config["Labels"][key] = json!(value);
            }
        }
        Command::Expose(words) => {
            for word in words {
                for port in scope.expand(word, escape).map_err(wrong)?.words {
                    let port = match port.contains('/') {
                        true => port,
                        false => format!("{port}/tcp"),
                    };
                    config["ExposedPorts"][port] = json!({});
                }
            }
        }
        Command::Volume(paths) => {
            for path in paths {
                config["Volumes"][expand(&scope, path)?] = json!({});
            }
        }
        Command::User(user) => config["User"] = json!(expand(&scope, user)?),
        Command::StopSignal(signal) => {
            let signal = expand(&scope, signal)?;
            crate::names::signal(&signal)?;
            config["StopSignal"] = json!(signal);
        }
        Command::Workdir(path) => {
            let path = expand(&scope, path)?;
            let before = config["WorkingDir"].as_str().unwrap_or_default();
            let whole = format!("/{before}/{path}");
            let whole = if path.starts_with('/') { path } else { whole };
            config["WorkingDir"] = json!(crate::create::mounts::clean(&whole));
        }
        Command::Onbuild(text) => {
            let mut all = strings(&config["OnBuild"]);
            all.push(text.clone());
            config["OnBuild"] = json!(all);
        }
        Command::Health(health) => config["Healthcheck"] = healthcheck(health),
        _ => {}
    }
    Ok(())
}

fn command_line(config: &Value, line: &CommandLine) -> Value {
    match line {
        CommandLine::Exec(list) => json!(list),
        CommandLine::Shell(text) => {
            let mut shell = strings(&config["Shell"]);
            if shell.is_empty() {
                shell = vec!["/bin/sh".into(), "-c".into()];
            }
            shell.push(text.clone());
            json!(shell)
        }
    }
}

fn healthcheck(health: &Health) -> Value {
    let mut shown = json!({ "Test": health.test });
    for (key, ms) in [
        ("Interval", health.interval_ms),
        ("Timeout", health.timeout_ms),
        ("StartPeriod", health.start_period_ms),
        ("StartInterval", health.start_interval_ms),
    ] {
        if ms > 0 {
            shown[key] = json!(ms.saturating_mul(1_000_000));
        }
    }
    if health.retries > 0 {
        shown["Retries"] = json!(health.retries);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_applied() {
        let check = |lines: &[&str], wanted: Result<Value, &str>| {
            let mut config = json!({});
            let got = change(&mut config, lines).map(|()| config);
            let got = got.map_err(|f| f.message);
            assert_eq!(got, wanted.map_err(str::to_string), "{lines:?}");
        };
        check(&["CMD [\"a\", \"b\"]"], Ok(json!({ "Cmd": ["a", "b"] })));
        check(&["cmd a b"], Ok(json!({ "Cmd": ["/bin/sh", "-c", "a b"] })));
        check(
            &["ENV A=\"b c\" B=d"],
            Ok(json!({ "Env": ["A=b c", "B=d"] })),
        );
        check(
            &["ENV A=b", "WORKDIR /x", "WORKDIR $A"],
            Ok(json!({ "Env": ["A=b"], "WorkingDir": "/x/b" })),
        );
        check(&["LABEL a=\"b\""], Ok(json!({ "Labels": { "a": "b" } })));
        check(
            &["EXPOSE 80 53/udp"],
            Ok(json!({ "ExposedPorts": { "80/tcp": {}, "53/udp": {} } })),
        );
        check(
            &["HEALTHCHECK --interval=2s --retries=3 CMD true"],
            Ok(json!({ "Healthcheck":
                { "Test": ["CMD-SHELL", "true"], "Interval": 2_000_000_000u64, "Retries": 3 } })),
        );
        check(&["ONBUILD RUN x"], Ok(json!({ "OnBuild": ["RUN x"] })));
        check(
            &["VOLUME /a /b"],
            Ok(json!({ "Volumes": { "/a": {}, "/b": {} } })),
        );
        check(&["STOPSIGNAL nope"], Err("invalid signal: nope"));
        check(&["RUN x"], Err("RUN is not a valid change command"));
        check(&["BOGUS x"], Err("BOGUS is not a valid change command"));
        check(&["FROM x"], Err("FROM is not a valid change command"));
        check(&[""], Ok(json!({})));
    }
}
