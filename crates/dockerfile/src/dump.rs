//! A file as BuildKit's parser dumps it (`frontend/dockerfile/parser/dumper`), to be held against it.

use crate::{
    error::{Error, Result},
    lines::{Json, Line, Lines, json},
    split,
    words::Escape,
};

/// One line for each instruction, in parentheses.
///
/// # Errors
/// Arguments that the parser refuses.
pub fn dump(file: &Lines) -> Result<String> {
    file.lines
        .iter()
        .map(|l| {
            let one =
                instruction(l, file.escape).map_err(|why| Error::new(l.first, l.last, why))?;
            Ok(format!("({one})\n"))
        })
        .collect()
}

fn instruction(line: &Line, escape: Escape) -> std::result::Result<String, String> {
    let mut out = line.keyword.to_lowercase();
    if !line.flags.is_empty() {
        let quoted: Vec<String> = line.flags.iter().map(|f| quote(f)).collect();
        out += &format!(" [{}]", quoted.join(" "));
    }
    let rest = line.rest.as_str();
    let blanks = || match rest {
        "" => vec![],
        rest => split::blanks(rest),
    };
    let exec = |rest: &str| match json(rest) {
        Json::Strings(all) => Ok(Some(all)),
        Json::OtherArray => {
            Err("when using JSON array syntax, arrays must be comprised of strings only".to_owned())
        }
        Json::No => Ok(None),
    };
    let whole = |rest: &str| match rest {
        "" => vec![],
        rest => vec![rest.to_owned()],
    };
    let arguments = match line.name().as_str() {
        "ADD" | "COPY" | "VOLUME" => exec(rest)?.unwrap_or_else(blanks),
        "ARG" => split::words(rest, escape),
        "CMD" | "ENTRYPOINT" | "RUN" | "SHELL" => exec(rest)?.unwrap_or_else(|| whole(rest)),
        "ENV" | "LABEL" => pairs(line, escape)?,
        "EXPOSE" | "FROM" => blanks(),
        "HEALTHCHECK" if !rest.is_empty() => {
            let at = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let test = rest[at..].trim_start();
            let mut all = vec![rest[..at].to_owned()];
            all.extend(exec(test)?.unwrap_or_else(|| whole(test)));
            all
        }
        "MAINTAINER" | "STOPSIGNAL" | "USER" | "WORKDIR" => whole(rest),
        "ONBUILD" if !rest.is_empty() => {
            return Ok(format!(
                "{out} ({})",
                instruction(&line.inner(escape), escape)?
            ));
        }
        "HEALTHCHECK" | "ONBUILD" => vec![],
        _ => vec![String::new()],
    };
    for a in arguments {
        out += " ";
        out += &quote(&a);
    }
    Ok(out)
}

/// Key, value, what was between them.
fn pairs(line: &Line, escape: Escape) -> std::result::Result<Vec<String>, String> {
    crate::read::key_values(line, &line.name(), escape).map(|all| {
        let three = |p: crate::KeyValue| {
            let between = if p.legacy { "" } else { "=" };
            [p.key, p.value, between.to_owned()]
        };
        all.into_iter().flat_map(three).collect()
    })
}

/// `strconv.Quote`
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out += "\\\"",
            '\\' => out += "\\\\",
            '\u{7}' => out += "\\a",
            '\u{8}' => out += "\\b",
            '\u{c}' => out += "\\f",
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            '\u{b}' => out += "\\v",
            c if c.is_ascii_control() => out += &format!("\\x{:02x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out + "\""
}
