//! What somebody may have meant. Knows words, and nothing of flags or commands.

/// Longest word that is compared, in characters: longer ones are nobody's typing mistake.
const WORD_MAX: usize = 64;

/// The candidate that is most like `word`, if one is so near that it was probably meant.
///
/// Case does not count, and the beginning of a candidate is as near as one wrong letter.
pub(crate) fn nearest(
    word: &str,
    candidates: impl IntoIterator<Item = &'static str>,
) -> Option<&'static str> {
    let word: Vec<char> = word.to_lowercase().chars().take(WORD_MAX).collect();
    candidates
        .into_iter()
        .map(|candidate| {
            let letters: Vec<char> = candidate.to_lowercase().chars().collect();
            let is_beginning = word.len() >= 2 && letters.starts_with(&word);
            let distance = if is_beginning { 1 } else { edits(&word, &letters) };
            (distance, letters.len(), candidate)
        })
        .filter(|(distance, length, _)| {
            *distance < *length && *distance <= (word.len().max(*length) / 3).max(2)
        })
        .min_by_key(|(distance, ..)| *distance)
        .map(|(.., candidate)| candidate)
}

/// How many letters must be inserted, removed, replaced or swapped with the next to make one word of the
/// other (optimal string alignment).
fn edits(from: &[char], to: &[char]) -> usize {
    let cell = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX - 1);
    // Rows of the classic table: for all letters of `from` so far, and for those before the last and the
    // last but one of them. The first cell of a row is the number of its letters.
    let mut row: Vec<usize> = (0..=to.len()).collect();
    let mut above: Vec<usize> = Vec::new();
    let mut letter_before = None;
    for (done, letter) in from.iter().enumerate() {
        let above_that = std::mem::replace(&mut above, std::mem::take(&mut row));
        let mut wanted_before = None;
        row.push(done + 1);
        for (column, wanted) in to.iter().enumerate() {
            let replaced = cell(&above, column) + usize::from(letter != wanted);
            let inserted = cell(&row, column) + 1;
            let removed = cell(&above, column + 1) + 1;
            let swaps = Some(letter) == wanted_before && letter_before == Some(wanted);
            let swapped = if swaps { cell(&above_that, column.wrapping_sub(1)) + 1 } else { usize::MAX };
            row.push(replaced.min(inserted).min(removed).min(swapped));
            wanted_before = Some(wanted);
        }
        letter_before = Some(letter);
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_finds_what_was_meant() {
        let words = ["simulate", "state", "status", "state-dir", "configdir", "jobs", "json", "run"];
        let check = |word, meant| assert_eq!(nearest(word, words), meant, "{word}");
        check("simulat", Some("simulate"));
        check("SIMULATE", Some("simulate"));
        check("sim", Some("simulate"));
        check("config-dir", Some("configdir"));
        check("stauts", Some("status"));
        check("statedir", Some("state-dir"));
        check("jbos", Some("jobs"));
        check("rnu", Some("run"));
        check("", None);
        check("x", None);
        check("xyz", None);
        check("frobnicate", None);
        check(&"x".repeat(100_000), None);
    }

    #[test]
    fn edits_are_counted_both_ways() {
        let check = |a: &str, b: &str, count| {
            let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
            assert_eq!((edits(&a, &b), edits(&b, &a)), (count, count));
        };
        check("", "", 0);
        check("", "abc", 3);
        check("kitten", "sitting", 3);
        check("abcd", "abdc", 1);
        check("ab", "ba", 1);
    }
}
