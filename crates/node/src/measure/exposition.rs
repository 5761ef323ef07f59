//! Prometheus' text format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats).

use std::fmt::Write;

/// What a sample's labels are: names and values.
pub(crate) type Labels<'a> = [(&'a str, &'a str)];

/// Families of samples, in the order in which they were begun.
#[derive(Default)]
pub(crate) struct Exposition {
    families: Vec<Family>,
}

struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    samples: String,
}

pub(crate) const GAUGE: &str = "gauge";
pub(crate) const COUNTER: &str = "counter";

impl Exposition {
    fn family(
        &mut self,
        name: &'static str,
        kind: &'static str,
        help: &'static str,
    ) -> &mut String {
        let at = self
            .families
            .iter()
            .position(|f| f.name == name)
            .unwrap_or_else(|| {
                self.families.push(Family {
                    name,
                    help,
                    kind,
                    samples: String::new(),
                });
                self.families.len() - 1
            });
        &mut self.families[at].samples
    }

    /// One sample; `at`: of which time, in milliseconds since 1970.
    pub(crate) fn add(
        &mut self,
        (name, kind, help): (&'static str, &'static str, &'static str),
        labels: &[&Labels<'_>],
        value: f64,
        at: Option<i64>,
    ) {
        let out = self.family(name, kind, help);
        out.push_str(name);
        let mut first = true;
        for (key, text) in labels.iter().copied().flatten() {
            out.push(if first { '{' } else { ',' });
            first = false;
            out.push_str(key);
            out.push_str("=\"");
            for c in text.chars() {
                match c {
                    '\\' => out.push_str("\\\\"),
                    '"' => out.push_str("\\\""),
                    '\n' => out.push_str("\\n"),
                    c => out.push(c),
                }
            }
            out.push('"');
        }
        if !first {
            out.push('}');
        }
        // writing to a String can't fail
        let _ = match at {
            Some(at) => writeln!(out, " {} {at}", number(value)),
            None => writeln!(out, " {}", number(value)),
        };
    }

    /// A histogram with cumulative buckets.
    pub(crate) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &Labels<'_>,
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        let out = self.family(name, "histogram", help);
        let plain: String = labels.iter().fold(String::new(), |mut s, (k, v)| {
            let _ = write!(s, "{k}=\"{v}\",");
            s
        });
        let mut total = 0;
        for (at, count) in counts.iter().enumerate() {
            total += count;
            let bound = bounds.get(at).map_or("+Inf".into(), |b| number(*b));
            let _ = writeln!(out, "{name}_bucket{{{plain}le=\"{bound}\"}} {total}");
        }
        let plain = plain.trim_end_matches(',');
        let braces = match plain {
            "" => String::new(),
            plain => format!("{{{plain}}}"),
        };
        let _ = writeln!(out, "{name}_sum{braces} {}", number(sum));
        let _ = writeln!(out, "{name}_count{braces} {total}");
    }

    /// The whole text, sorted by the families' names.
    pub(crate) fn finish(mut self) -> String {
        self.families.sort_by_key(|f| f.name);
        let mut out = String::new();
        for f in &self.families {
            let _ = write!(
                out,
                "# HELP {} {}\n# TYPE {} {}\n{}",
                f.name, f.help, f.name, f.kind, f.samples
            );
        }
        out
    }
}

/// As Go's `strconv.FormatFloat(v, 'g', -1, 64)` does, as far as parsers care.
fn number(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e21 {
        return format!("{value:.0}");
    }
    format!("{value:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_grouped_and_escaped() {
        let mut all = Exposition::default();
        let b = ("b_total", COUNTER, "Bs.");
        all.add(b, &[&[("x", "a\"\\\n")], &[("y", "")]], 1.5, Some(7));
        all.add(("a", GAUGE, "An a."), &[], 1e10, None);
        all.add(b, &[&[("x", "2")]], 3.0, None);
        all.histogram("h", "Hs.", &[("v", "get")], &[0.1, 1.0], &[2, 0, 1], 4.25);
        assert_eq!(
            all.finish(),
            "# HELP a An a.\n# TYPE a gauge\na 10000000000\n\
             # HELP b_total Bs.\n# TYPE b_total counter\nb_total{x=\"a\\\"\\\\\\n\",y=\"\"} 1.5 7\nb_total{x=\"2\"} 3\n\
             # HELP h Hs.\n# TYPE h histogram\nh_bucket{v=\"get\",le=\"0.1\"} 2\nh_bucket{v=\"get\",le=\"1\"} 2\nh_bucket{v=\"get\",le=\"+Inf\"} 3\nh_sum{v=\"get\"} 4.25\nh_count{v=\"get\"} 3\n"
        );
    }
}
