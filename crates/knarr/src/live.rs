//! Lines at the end of a terminal's text that are drawn anew in place: cut to the window's width, coloured unless that is
//! not wanted, and found again after the window was made wider or narrower.

use std::io::{IsTerminal, Write};

/// How a part of a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    Good,
    Bad,
    Runs,
    Known,
    Warns,
    Dim,
}

impl Style {
    fn code(self) -> Option<&'static str> {
        Some(match self {
            Style::Plain => return None,
            Style::Good => "32",
            Style::Bad => "31",
            Style::Runs => "34",
            Style::Known => "36",
            Style::Warns => "33",
            Style::Dim => "2",
        })
    }
}

/// A line in its parts.
pub type Line = Vec<(Style, String)>;

/// Whether lines can be drawn anew on standard error.
pub fn is_live() -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
    std::io::stderr().is_terminal() && !dumb
}

/// Whether colours are wanted. SOURCE: https://no-color.org
fn is_coloured() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Columns and rows of the terminal on standard error.
pub fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// The lines that are drawn anew.
#[derive(Default)]
pub struct Live {
    /// How wide each line is that stands there.
    drawn: Vec<usize>,
}

impl Live {
    /// Prints `above` for good, and below it `lines`, in place of those that were there.
    pub fn draw(&mut self, above: &[Line], lines: &[Line]) {
        let text = self.frame(above, lines, size(), is_coloured());
        let mut out = std::io::stderr().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }

    /// Whether any lines stand there.
    pub fn is_drawn(&self) -> bool {
        !self.drawn.is_empty()
    }

    /// What stands there stays, and the next lines come below it.
    pub fn leave(&mut self) {
        self.drawn.clear();
    }

    fn frame(
        &mut self,
        above: &[Line],
        lines: &[Line],
        (columns, rows): (usize, usize),
        coloured: bool,
    ) -> String {
        let mut text = String::new();
        // A window that was made narrower has broken lines in two.
        let stand = self.drawn.iter().map(|w| w.div_ceil(columns).max(1));
        match stand.sum::<usize>().min(rows.saturating_sub(1)) {
            0 => {}
            up => text += &format!("\x1b[{up}A\x1b[J"),
        }
        for line in above {
            text += &rendered(line, usize::MAX, coloured).0;
            text.push('\n');
        }
        self.drawn.clear();
        for line in lines.iter().take(rows.saturating_sub(1).max(1)) {
            // The last column is left free: some terminals go to the next line with it.
            let (line, width) = rendered(line, columns.saturating_sub(1), coloured);
            text += &line;
            text.push('\n');
            self.drawn.push(width);
        }
        text
    }
}

/// The line within so many columns, and how many it takes.
fn rendered(line: &Line, columns: usize, coloured: bool) -> (String, usize) {
    let whole: usize = line.iter().map(|(_, t)| width(t)).sum();
    let room = match whole > columns {
        true => columns.saturating_sub(1),
        false => whole,
    };
    let (mut text, mut used) = (String::new(), 0);
    for (style, part) in line {
        let code = style.code().filter(|_| coloured);
        if let Some(code) = code {
            text += &format!("\x1b[{code}m");
        }
        for c in part.chars() {
            if used + char_width(c) > room {
                break;
            }
            used += char_width(c);
            text.push(c);
        }
        if code.is_some() {
            text += "\x1b[0m";
        }
        if used >= room && whole > columns {
            text.push('…');
            used += 1;
            break;
        }
    }
    (text, used)
}

/// How many columns a text takes.
pub fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// Two for the wide characters of East Asia and for pictures.
fn char_width(c: char) -> usize {
    match u32::from(c) {
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// A text without escape sequences and control characters: what programs write must not move the cursor.
pub fn harmless(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => {
                if chars.next_if_eq(&'[').is_some() {
                    while chars.next_if(|c| !('@'..='~').contains(c)).is_some() {}
                    chars.next();
                } else {
                    chars.next();
                }
            }
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// The last line of a text that says something.
pub fn last_line(text: &str) -> Option<String> {
    let line = text.split(['\n', '\r']).rfind(|l| !l.trim().is_empty())?;
    Some(harmless(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        vec![(Style::Plain, text.into())]
    }

    #[test]
    fn lines_of_output_are_made_harmless() {
        for (text, want) in [
            ("a\nb\n", Some("b")),
            ("10%\r20%\r", Some("20%")),
            ("\x1b[31mred\x1b[0m\x07\n\n", Some("red")),
            ("\n", None),
        ] {
            assert_eq!(last_line(text).as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn lines_stay_within_the_window() {
        for (text, columns, want) in [
            ("abcdef", 6, "abcdef"),
            ("abcdef", 5, "abcd…"),
            ("漢字漢字", 5, "漢字…"),
            ("", 5, ""),
        ] {
            let (made, used) = rendered(&line(text), columns, true);
            assert_eq!(made, want, "{text:?}");
            assert_eq!(used, width(want));
        }
        let two = vec![(Style::Good, "ab".into()), (Style::Dim, "cdef".into())];
        assert_eq!(
            rendered(&two, 4, true).0,
            "\x1b[32mab\x1b[0m\x1b[2mc\x1b[0m…"
        );
        assert_eq!(rendered(&two, 4, false).0, "abc…");
    }

    #[test]
    fn lines_are_found_again_in_another_window() {
        let mut live = Live::default();
        let text = [line("0123456789"), line("b")];
        let first = live.frame(&[], &text, (80, 24), true);
        assert_eq!(first, "0123456789\nb\n");
        let same = live.frame(&[line("said")], &text, (80, 24), true);
        assert_eq!(same, "\x1b[2A\x1b[Jsaid\n0123456789\nb\n");
        // Ten characters in four columns take three rows.
        let narrow = live.frame(&[], &text, (4, 24), true);
        assert_eq!(narrow, "\x1b[4A\x1b[J01…\nb\n");
        // More lines than rows are not drawn: they could not be drawn over.
        let many: Vec<Line> = (0..9).map(|n| line(&n.to_string())).collect();
        assert_eq!(
            live.frame(&[], &many, (4, 4), true),
            "\x1b[2A\x1b[J0\n1\n2\n"
        );
        live.leave();
        assert_eq!(live.frame(&[], &[], (80, 24), true), "");
    }
}
