//! What changed, as a unified diff of pretty JSON (apimachinery `pkg/util/diff`).

use super::internal;
#[cfg(test)]
use serde::Serialize;
use serde_json::Value;

/// Lines of context around a change.
const CONTEXT: usize = 3;
/// More lines than this are not compared: an object that large is named, not shown.
const LINES_MAX: usize = 4096;

#[cfg(test)]
fn lines(v: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(
        &mut out,
        serde_json::ser::PrettyFormatter::with_indent(b" "),
    );
    // a Value has no way to fail
    let _ = v.serialize(&mut writer);
    let text = String::from_utf8_lossy(&out).into_owned();
    text.lines().map(String::from).collect()
}

/// The change from `a` to `b`, as Go writes this type of upstream's own; empty when there is none.
pub(crate) fn diff_of(ty: &str, a: &Value, b: &Value) -> String {
    change(&internal::lines(ty, a), &internal::lines(ty, b))
}

/// The change from `a` to `b`; empty when there is none.
#[cfg(test)]
pub(crate) fn diff(a: &Value, b: &Value) -> String {
    change(&lines(a), &lines(b))
}

fn change(a: &[String], b: &[String]) -> String {
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let tail = a[same..]
        .iter()
        .rev()
        .zip(b[same..].iter().rev())
        .take_while(|(x, y)| x == y)
        .count();
    let (from, to) = (&a[same..a.len() - tail], &b[same..b.len() - tail]);
    if from.is_empty() && to.is_empty() {
        return String::new();
    }
    let steps = if from.len() + to.len() > LINES_MAX {
        let gone = from.iter().map(|l| ('-', l.as_str()));
        gone.chain(to.iter().map(|l| ('+', l.as_str()))).collect()
    } else {
        script(from, to)
    };
    let before = a[..same].iter().map(|l| (' ', l.as_str()));
    let after = a[a.len() - tail..].iter().map(|l| (' ', l.as_str()));
    hunks(&before.chain(steps).chain(after).collect::<Vec<_>>())
}

/// A shortest way from one list of lines to the other.
fn script<'a>(a: &'a [String], b: &'a [String]) -> Vec<(char, &'a str)> {
    let width = b.len() + 1;
    let mut common = vec![0u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i * width + j] = if a[i] == b[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::with_capacity(a.len() + b.len());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            out.push((' ', a[i].as_str()));
            (i, j) = (i + 1, j + 1);
        } else if i < a.len()
            && (j == b.len() || common[(i + 1) * width + j] >= common[i * width + j + 1])
        {
            out.push(('-', a[i].as_str()));
            i += 1;
        } else {
            out.push(('+', b[j].as_str()));
            j += 1;
        }
    }
    out
}

fn hunks(steps: &[(char, &str)]) -> String {
    let changed: Vec<usize> = (0..steps.len()).filter(|i| steps[*i].0 != ' ').collect();
    let mut out = String::new();
    let mut k = 0;
    while k < changed.len() {
        let start = changed[k].saturating_sub(CONTEXT);
        let mut end = changed[k];
        while k < changed.len() && changed[k] <= end + 2 * CONTEXT {
            end = changed[k];
            k += 1;
        }
        let end = (end + CONTEXT + 1).min(steps.len());
        let count = |part: &[(char, &str)], but: char| part.iter().filter(|s| s.0 != but).count();
        let (head, body) = (&steps[..start], &steps[start..end]);
        let range = |from: usize, length: usize| match length {
            1 => format!("{}", from + 1),
            0 => format!("{from},0"),
            n => format!("{},{n}", from + 1),
        };
        out += &format!(
            "@@ -{} +{} @@\n",
            range(count(head, '+'), count(body, '+')),
            range(count(head, '-'), count(body, '-')),
        );
        for (mark, line) in body {
            out.push(*mark);
            out += line;
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_come_with_what_is_around_them() {
        for (name, a, b, want) in [
            ("none", json!({"a": 1}), json!({"a": 1}), ""),
            (
                "changed",
                json!({"a": 1, "b": 2}),
                json!({"a": 1, "b": 3}),
                "@@ -1,4 +1,4 @@\n {\n  \"a\": 1,\n- \"b\": 2\n+ \"b\": 3\n }\n",
            ),
            (
                "far apart",
                json!({"a": 1, "b": [1, 2, 3, 4, 5, 6, 7, 8], "c": 1}),
                json!({"a": 2, "b": [1, 2, 3, 4, 5, 6, 7, 8], "c": 2}),
                "@@ -1,5 +1,5 @@\n {\n- \"a\": 1,\n+ \"a\": 2,\n  \"b\": [\n   1,\n   2,\n@@ -10,5 +10,5 @@\n   7,\n   8\n  ],\n- \"c\": 1\n+ \"c\": 2\n }\n",
            ),
        ] {
            assert_eq!(diff(&a, &b), want, "{name}");
        }
    }
}
