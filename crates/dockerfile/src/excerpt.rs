//! The lines of a file that something is said of, with some around them.

/// (number, text) of the lines to show. SOURCE: buildkit solver/errdefs/source.go (Source.Print)
pub fn excerpt(text: &str, first: usize, last: usize) -> Vec<(usize, String)> {
    // what comes after the last line's end is a line, too
    let lines: Vec<&str> = text.split('\n').collect();
    if first < 1 || first > lines.len() {
        return vec![];
    }
    let (mut from, mut to) = (first, last.clamp(first, lines.len()));
    let wanted = if from == to { 4 } else { 2 };
    let mut around = 0;
    while around < wanted {
        if from > 1 {
            from -= 1;
            around += 1;
        }
        if to != lines.len() {
            to += 1;
            around += 1;
        }
        around += 1;
    }
    (from..=to).map(|n| (n, lines[n - 1].to_owned())).collect()
}

/// As BuildKit prints it: the place, and the lines, those meant marked. Nothing where there are none.
pub fn shown(name: &str, text: &str, first: usize, last: usize) -> String {
    let lines = excerpt(text, first, last);
    if lines.is_empty() {
        return String::new();
    }
    let bar = "-".repeat(20);
    let mut out = format!("{name}:{first}\n{bar}\n");
    for (number, line) in lines {
        let meant = (first..=last.max(first)).contains(&number);
        let mark = if meant { ">>>" } else { "   " };
        out += &format!(" {number:3} | {mark} {line}\n");
    }
    out + &bar + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_lines_as_buildkit_shows() {
        let ten = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj";
        for (text, first, last, want) in [
            (ten, 5, 5, "3 4 5 6 7"),
            // fewer around more
            (ten, 4, 6, "3 4 5 6 7"),
            (ten, 1, 1, "1 2 3"),
            (ten, 1, 2, "1 2 3"),
            (ten, 10, 10, "8 9 10"),
            ("a\n", 1, 1, "1 2"),
            ("a", 1, 1, "1"),
            ("a\nb", 1, 9, "1 2"),
            ("a", 0, 0, ""),
            ("a", 7, 7, ""),
        ] {
            let lines = excerpt(text, first, last);
            let numbers: Vec<String> = lines.iter().map(|l| l.0.to_string()).collect();
            assert_eq!(numbers.join(" "), want, "{text:?} {first}-{last}");
        }
        assert_eq!(
            shown("D", "FROM a\nRUN b\n", 2, 2),
            "D:2\n--------------------\n   1 |     FROM a\n   2 | >>> RUN b\n   3 |     \n--------------------\n"
        );
    }
}
