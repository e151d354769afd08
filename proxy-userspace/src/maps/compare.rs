//! Two texts of maps ([`super::render::text`]) compared, entry by entry.

use std::collections::{BTreeMap, BTreeSet};

/// An entry that is not the same in both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// What it is about: `service default/web:http/tcp`, `frontend 10.96.0.1:80/tcp`, `owned 10.96.0.1`, `node ...`.
    pub entry: String,
    /// Its lines in the first text; none: it has no such entry.
    pub first: Vec<String>,
    /// Its lines in the second.
    pub second: Vec<String>,
}

/// Labels of the service ports that claim a frontend which more than one claims, by its entry.
pub type Claimants = BTreeMap<String, BTreeSet<String>>;

/// What differs. Whoever of its claimants has a contested frontend, is right.
pub fn compare(first: &str, second: &str, claimants: &Claimants) -> Vec<Difference> {
    let (first, second) = (entries(first), entries(second));
    let names: BTreeSet<&str> = first.keys().chain(second.keys()).copied().collect();
    let lines =
        |text: Option<&&str>| text.map_or_else(Vec::new, |text| text.lines().map(str::to_owned).collect());
    names
        .into_iter()
        .filter(|name| first.get(name) != second.get(name))
        .filter(|name| !is_claimed(second.get(name), claimants.get(*name)))
        .map(|name| Difference {
            entry: name.to_owned(),
            first: lines(first.get(name)),
            second: lines(second.get(name)),
        })
        .collect()
}

/// Whether one of the claimants has the frontend.
fn is_claimed(line: Option<&&str>, claimants: Option<&BTreeSet<String>>) -> bool {
    let holder = line.and_then(|line| line.trim_end().rsplit_once(" -> ")).map(|(_, holder)| holder);
    holder.zip(claimants).is_some_and(|(holder, claimants)| claimants.contains(holder))
}

/// Entries by name; an entry is a line and the indented ones after it.
fn entries(text: &str) -> BTreeMap<&str, &str> {
    let starts: Vec<usize> = std::iter::once(0)
        .chain(text.match_indices('\n').map(|(at, _)| at + 1))
        .filter(|at| text[*at..].starts_with(|first: char| !first.is_whitespace()))
        .collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(start, end)| (name(&text[*start..end]), &text[*start..end])).collect()
}

/// The first two words of an entry.
fn name(entry: &str) -> &str {
    let line = entry.lines().next().unwrap_or_default();
    let second = line.find(' ').map_or(line.len(), |space| space + 1);
    let end = line[second..].find(' ').map_or(line.len(), |space| second + space);
    &line[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "service default/web:80/tcp\n  internal random 10.1.0.1:80\nservice default/x:80/tcp\n  \
                         internal reject\nfrontend 10.96.0.1:80/tcp cluster-ip -> default/web:80/tcp\n";

    #[test]
    fn equal_texts_have_no_differences() {
        assert_eq!(compare(FIRST, FIRST, &Claimants::new()), []);
        assert_eq!(compare("", "", &Claimants::new()), []);
    }

    #[test]
    fn each_entry_that_differs_is_told_once() {
        let second = FIRST
            .replace("10.1.0.1", "10.1.0.2")
            .replace("service default/x:80/tcp\n  internal reject\n", "")
            + "owned 10.96.0.1\n";
        let differences = compare(FIRST, &second, &Claimants::new());
        let entries: Vec<&str> = differences.iter().map(|difference| &*difference.entry).collect();
        assert_eq!(entries, ["owned 10.96.0.1", "service default/web:80/tcp", "service default/x:80/tcp"]);
        assert_eq!(differences[0].first, Vec::<String>::new());
        assert_eq!(differences[1].second[1], "  internal random 10.1.0.2:80");
        assert_eq!(differences[2].second, Vec::<String>::new());
    }

    #[test]
    fn any_claimant_may_have_a_frontend() {
        let second = FIRST.replace("-> default/web:80/tcp", "-> default/x:80/tcp");
        let claim = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            Claimants::from([("frontend 10.96.0.1:80/tcp".to_owned(), names)])
        };
        assert_eq!(compare(FIRST, &second, &claim(&["default/web:80/tcp", "default/x:80/tcp"])), []);
        assert_eq!(compare(FIRST, &second, &claim(&["default/web:80/tcp"])).len(), 1);
    }
}
