//! "did you mean".

/// The one of `all` that is most like `word`, if one is: at most three edits away.
pub(crate) fn closest<'a>(word: &str, all: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    all.into_iter()
        .map(|known| (distance(&word, &known.to_lowercase()), known))
        .filter(|(far, known)| *far > 0 && *far <= 3 && *far < known.chars().count())
        .min_by_key(|(far, _)| *far)
        .map(|(_, known)| known)
}

/// ` (did you mean x?)`, or nothing.
pub(crate) fn hint<'a>(word: &str, all: impl IntoIterator<Item = &'a str>) -> String {
    closest(word, all).map_or_else(String::new, |k| format!(" (did you mean {k}?)"))
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
