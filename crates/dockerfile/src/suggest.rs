//! "did you mean".

/// The one of `all` that is most like `word`, if one is: at most two edits away. None when the word itself is among them.
/// SOURCE: buildkit util/suggest
pub(crate) fn closest<'a>(word: &str, all: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let all = all.into_iter();
    let far: Vec<(usize, &str)> = all
        .map(|known| (distance(&word, &known.to_lowercase()), known))
        .collect();
    if far.iter().any(|(far, _)| *far == 0) {
        return None;
    }
    let near = far.into_iter().filter(|(far, _)| *far < 3);
    near.min_by_key(|(far, _)| *far).map(|(_, known)| known)
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
