//! "Did you mean": the allowed word nearest to a misspelt one.

/// Words longer than this are not compared: nobody misspells them by accident, and the cost is quadratic.
const WORD_CHARACTERS_MAX: usize = 64;

/// The allowed word within a third of the length of `word`, at least one edit; the first of the nearest ones.
pub(crate) fn nearest<'a>(word: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let length = word.chars().count();
    if length == 0 || length > WORD_CHARACTERS_MAX {
        return None;
    }
    let reach = (length / 3).max(1);
    let wanted = word.to_lowercase();
    allowed
        .iter()
        .map(|candidate| (distance(&wanted, &candidate.to_lowercase()), *candidate))
        .filter(|(edits, _)| *edits <= reach)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, remove, replace, swap of neighbours) that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, right) in b.iter().enumerate() {
            let replaced = row[j] + usize::from(left != right);
            let mut best = replaced.min(row[j + 1] + 1).min(next[j] + 1);
            let is_swap = i > 0 && j > 0 && a[i - 1] == *right && *left == b[j - 1];
            if is_swap {
                best = best.min(before[j - 1] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_slips_and_leaves_strangers_alone() {
        let allowed = ["heart", "vip", "rfs", "user"];
        assert_eq!(nearest("hearth", &allowed), Some("heart"));
        assert_eq!(nearest("VIP", &allowed), Some("vip"));
        assert_eq!(nearest("rsf", &allowed), Some("rfs"));
        assert_eq!(nearest("banana", &allowed), None);
        assert_eq!(nearest("", &allowed), None);
    }
}
