//! Sets of indexes as a Job's status writes them: `0,2-4` (`indexed_job_utils.go`).

use std::fmt;

/// Intervals in order, none touching the next: as small as the text, however many indexes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Indexes below `completions`; what can't be read is passed over.
    pub fn parse(text: &str, completions: i32) -> Indexes {
        let mut all = Indexes::default();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>())
                && first >= 0
                && first < completions
            {
                all.0.push((first, last.min(completions - 1)));
            }
        }
        all.normal()
    }
    /// Of single indexes.
    pub fn of(all: impl IntoIterator<Item = i32>) -> Indexes {
        Indexes(all.into_iter().map(|i| (i, i)).collect()).normal()
    }
    fn normal(mut self) -> Indexes {
        self.0.retain(|(a, b)| a <= b);
        self.0.sort_unstable();
        let mut out: Vec<(i32, i32)> = Vec::with_capacity(self.0.len());
        for (a, b) in self.0 {
            match out.last_mut() {
                Some((_, end)) if a <= end.saturating_add(1) => *end = b.max(*end),
                _ => out.push((a, b)),
            }
        }
        Indexes(out)
    }
    /// Both.
    pub fn and(&self, other: &Indexes) -> Indexes {
        Indexes(self.0.iter().chain(&other.0).copied().collect()).normal()
    }
    /// How many.
    pub fn total(&self) -> i32 {
        self.0.iter().map(|(a, b)| b - a + 1).sum()
    }
    /// None.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The index is in it.
    pub fn has(&self, index: i32) -> bool {
        let after = self.0.partition_point(|(a, _)| *a <= index);
        after > 0 && self.0[after - 1].1 >= index
    }
    /// How many of `other` are in it.
    pub fn overlap(&self, other: &Indexes) -> i32 {
        let (mut i, mut j, mut n) = (0, 0, 0);
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(j)) {
            n += (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
            if a.1 <= b.1 {
                i += 1;
            } else {
                j += 1;
            }
        }
        n
    }
    /// The first `count` indexes below `completions` that aren't in it.
    pub fn missing(&self, count: usize, completions: i32) -> Vec<i32> {
        let mut next = 0;
        let mut found = vec![];
        for (a, b) in &self.0 {
            let room = count - found.len();
            found.extend((next..(*a).min(completions)).take(room));
            next = next.max(b.saturating_add(1));
        }
        let room = count - found.len();
        found.extend((next..completions).take(room));
        found
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (a, b)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match b - a {
                0 => write!(f, "{comma}{a}")?,
                1 => write!(f, "{comma}{a},{b}")?,
                _ => write!(f, "{comma}{a}-{b}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (text, completions, want) in [
            ("", 5, ""),
            ("0", 5, "0"),
            ("0,1", 5, "0,1"),
            ("0,2-4,7", 9, "0,2-4,7"),
            ("0,1,2", 5, "0-2"),
            ("3,1", 5, "1,3"),
            ("0-9", 5, "0-4"),
            ("7,x,2-y,1", 5, "1"),
        ] {
            assert_eq!(
                Indexes::parse(text, completions).to_string(),
                want,
                "{text}"
            );
        }
    }

    #[test]
    fn sets() {
        let set = |t: &str| Indexes::parse(t, 100);
        for (a, b, both, common) in [
            ("0-2", "3", "0-3", 0),
            ("0-5", "2-3,9", "0-5,9", 2),
            ("", "1", "1", 0),
            ("1,3,5", "2-5", "1-5", 2),
        ] {
            assert_eq!(set(a).and(&set(b)).to_string(), both);
            assert_eq!(set(a).overlap(&set(b)), common, "{a} {b}");
            assert_eq!(set(b).overlap(&set(a)), common, "{b} {a}");
        }
        assert_eq!(set("1-3,5").total(), 4);
        for (i, has) in [
            (0, false),
            (1, true),
            (3, true),
            (4, false),
            (5, true),
            (6, false),
        ] {
            assert_eq!(set("1-3,5").has(i), has, "{i}");
        }
        assert_eq!(set("1-3,5").missing(3, 8), [0, 4, 6]);
        assert_eq!(set("1-3,5").missing(9, 7), [0, 4, 6]);
        assert_eq!(set("0-9").missing(2, 5), [0; 0]);
        assert_eq!(Indexes::of([2, 0, 1, 1]).to_string(), "0-2");
    }
}
