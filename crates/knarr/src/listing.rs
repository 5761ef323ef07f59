//! Lists as `docker` prints them: a table, a template for each line, JSON; and its `--filter`s.
//!
//! SOURCE: docker/cli `cli/command/formatter`, Go `text/tabwriter` for the widths.

use crate::{error::Error, run::fill_template};
use serde_json::Value;
use std::collections::BTreeMap;

/// What may be shown of a kind of thing: the fields, each with what stands above it, and those that a table has by itself.
pub struct Shape {
    pub heads: &'static [(&'static str, &'static str)],
    pub shown: &'static [&'static str],
}

/// Cells are at least so wide, with what parts them.
const CELL_MIN: usize = 10;
const GAP: usize = 3;

impl Shape {
    /// The rows as `--format` wants them: None or `table` for the usual table, `table TEMPLATE`, `json`, or a template.
    ///
    /// # Errors
    /// When the template can't be read or asks for what there is not.
    pub fn text(&self, rows: &[Value], format: Option<&str>) -> Result<String, Error> {
        let format = format.filter(|f| !f.is_empty()).unwrap_or("table");
        let usual = || {
            let fields = self.shown.iter().map(|field| format!("{{{{.{field}}}}}"));
            fields.collect::<Vec<_>>().join("\t")
        };
        let (table, template) = match format.strip_prefix("table") {
            Some("") => (true, usual()),
            Some(rest) if rest.starts_with([' ', '\t', '{']) => (true, rest.trim_start().into()),
            _ => (false, format.to_string()),
        };
        if template == "json" {
            return Ok(rows.iter().map(|row| format!("{row}\n")).collect());
        }
        let template = template.replace("\\t", "\t").replace("\\n", "\n");
        let heads = self.heads.iter();
        let heads: Value = heads
            .map(|(f, h)| (f.to_string(), Value::from(*h)))
            .collect();
        let line = |row: &Value| fill_template(&template, row).map_err(Error::Input);
        let mut lines: Vec<String> = match table {
            true => vec![line(&heads)?],
            false => Vec::new(),
        };
        for row in rows {
            lines.push(line(row)?);
        }
        Ok(match table {
            true => aligned(&lines),
            false => lines.iter().map(|line| format!("{line}\n")).collect(),
        })
    }

    /// Prints them.
    ///
    /// # Errors
    /// As [`Shape::text`].
    pub fn print(&self, rows: &[Value], format: Option<&str>) -> Result<(), Error> {
        print!("{}", self.text(rows, format)?);
        Ok(())
    }
}

/// Cells that a tab ends stand below each other.
fn aligned(lines: &[String]) -> String {
    let cells: Vec<Vec<&str>> = lines
        .iter()
        .map(|line| line.split('\t').collect())
        .collect();
    let width = |column: usize| {
        let ended = cells.iter().filter(|row| row.len() > column + 1);
        let widest = ended.map(|row| row[column].chars().count() + GAP).max();
        widest.unwrap_or(0).max(CELL_MIN)
    };
    let columns = cells.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in &cells {
        let (last, ended) = row.split_last().unwrap_or((&"", &[]));
        for (cell, width) in ended.iter().zip(&widths) {
            out.push_str(&format!("{cell:width$}"));
        }
        out.push_str(last);
        out.push('\n');
    }
    out
}

/// `text`, or as much of it as fits and an ellipsis.
pub fn cut(text: &str, most: usize, whole: bool) -> String {
    match whole || text.chars().count() <= most {
        true => text.to_string(),
        false => text.chars().take(most - 1).chain(['…']).collect(),
    }
}

/// A moment as lists show it.
pub fn moment(at: jiff::Timestamp) -> String {
    let zoned = at.to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// `--filter KEY=VALUE`, again and again.
#[derive(Debug, Clone, Default)]
pub struct Filters(Vec<(String, String)>);

impl Filters {
    /// # Errors
    /// For what is no filter, or none of `known`.
    pub fn read(texts: &[String], known: &[&str]) -> Result<Filters, Error> {
        let mut all = Vec::new();
        for text in texts {
            let (key, value) = text.split_once('=').ok_or_else(|| {
                Error::Input(format!(
                    "invalid argument {text:?} for \"-f, --filter\" flag: invalid filter {text:?} (should be of the form <key>=<value>)"
                ))
            })?;
            let key = key.trim().to_lowercase();
            if !known.contains(&key.as_str()) {
                return Err(Error::Input(format!("invalid filter '{key}'")));
            }
            all.push((key, value.trim().to_string()));
        }
        Ok(Filters(all))
    }

    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// One of the values fits, or there is none.
    pub fn any(&self, key: &str, fits: impl Fn(&str) -> bool) -> bool {
        !self.has(key) || self.values(key).any(fits)
    }

    /// All that is said of labels holds.
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let holds = |said: &str| match said.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
            None => labels.contains_key(said),
        };
        self.values("label").all(holds) && !self.values("label!").any(holds)
    }

    /// `name=`: a part of it, or with `^` and `$` its beginning and end.
    pub fn name(&self, name: &str) -> bool {
        self.any("name", |said| {
            let said = said.trim_start_matches('/');
            let (begins, said) = (said.starts_with('^'), said.trim_start_matches('^'));
            let said = said.trim_start_matches('/');
            let (ends, said) = (said.ends_with('$'), said.trim_end_matches('$'));
            match (begins, ends) {
                (true, true) => name == said,
                (true, false) => name.starts_with(said),
                (false, true) => name.ends_with(said),
                (false, false) => name.contains(said),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_templates_and_json() {
        let shape = Shape {
            heads: &[
                ("ID", "CONTAINER ID"),
                ("Image", "IMAGE"),
                ("Names", "NAMES"),
            ],
            shown: &["ID", "Image", "Names"],
        };
        let rows = [
            json!({ "ID": "0123456789ab", "Image": "a:1", "Names": "web" }),
            json!({ "ID": "1", "Image": "localhost:5000/b", "Names": "db" }),
        ];
        let none: [Value; 0] = [];
        for (rows, format, wanted) in [
            (&none[..], None, "CONTAINER ID   IMAGE     NAMES\n"),
            (
                &rows[..],
                None,
                "CONTAINER ID   IMAGE              NAMES\n0123456789ab   a:1                web\n1              localhost:5000/b   db\n",
            ),
            (
                &rows,
                Some("table {{.Names}}\\t{{.ID}}"),
                "NAMES     CONTAINER ID\nweb       0123456789ab\ndb        1\n",
            ),
            (
                &rows,
                Some("{{.Names}}:{{.ID}}"),
                "web:0123456789ab\ndb:1\n",
            ),
            (
                &rows[1..],
                Some("json"),
                "{\"ID\":\"1\",\"Image\":\"localhost:5000/b\",\"Names\":\"db\"}\n",
            ),
        ] {
            assert_eq!(shape.text(rows, format).unwrap(), wanted, "{format:?}");
        }
        assert!(shape.text(&rows, Some("{{.Nope}}")).is_err());
    }

    #[test]
    fn filters_are_read_and_hold() {
        let read = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|t| t.to_string()).collect();
            Filters::read(&texts, &["name", "label", "label!"])
        };
        for bad in ["x", "colour=red"] {
            assert!(read(&[bad]).is_err(), "{bad}");
        }
        for (said, name, holds) in [
            ("name=we", "web", true),
            ("name=^we", "web", true),
            ("name=^eb", "web", false),
            ("name=eb$", "web", true),
            ("name=^/web$", "web", true),
            ("name=web1", "web", false),
        ] {
            assert_eq!(read(&[said]).unwrap().name(name), holds, "{said}");
        }
        let labels = BTreeMap::from([("a".to_string(), "1".to_string())]);
        for (said, holds) in [
            ("label=a", true),
            ("label=a=1", true),
            ("label=a=2", false),
            ("label=b", false),
            ("label!=a", false),
            ("label!=b", true),
        ] {
            assert_eq!(read(&[said]).unwrap().labels(&labels), holds, "{said}");
        }
    }
}
