//! A strict reader of `/metrics`: the text format 0.0.4 of Prometheus, and OpenMetrics 1.0.0. It refuses what real
//! scrapers let pass: samples without HELP and TYPE, families in pieces, series twice, counters below zero, buckets
//! that do not add up.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

/// Labels of a series.
pub type Labels = BTreeMap<String, String>;

/// All samples of a scrape.
#[derive(Debug, Default)]
pub struct Exposition {
    /// Type of each family.
    pub families: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

/// A family whose samples are being read.
#[derive(Debug, Default)]
struct Open {
    name: String,
    has_help: bool,
    kind: String,
    has_samples: bool,
}

impl Exposition {
    /// Reads a whole scrape.
    pub fn parse(text: &str, is_open_metrics: bool) -> Result<Self> {
        ensure!(text.ends_with('\n'), "the last line has no end");
        let body =
            if is_open_metrics { text.strip_suffix("# EOF\n").context("no # EOF at the end")? } else { text };
        let mut read = Self::default();
        let mut open = Open::default();
        let mut seen = BTreeSet::new();
        for line in body.lines() {
            read.line(line, &mut open, &mut seen, is_open_metrics)
                .with_context(|| format!("line {line:?}"))?;
        }
        read.check_histograms()?;
        Ok(read)
    }

    /// The value of a series, if there is one.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    /// Every series of a name.
    pub fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Labels, f64)> + 'a {
        self.samples
            .iter()
            .filter(move |((of, _), _)| of == name)
            .map(|((_, labels), value)| (labels, *value))
    }

    fn line(
        &mut self,
        line: &str,
        open: &mut Open,
        seen: &mut BTreeSet<String>,
        is_open_metrics: bool,
    ) -> Result<()> {
        let Some(comment) = line.strip_prefix("# ") else {
            return self.sample(line, open, is_open_metrics);
        };
        let mut words = comment.splitn(3, ' ');
        let (what, name, text) = (words.next(), words.next(), words.next());
        let (Some(what), Some(name), Some(text)) = (what, name, text) else {
            bail!("not a comment of a family")
        };
        if open.name != name {
            ensure!(seen.insert(name.to_owned()), "the family {name} begins a second time");
            ensure!(is_name(name), "{name} is not a name");
            *open = Open { name: name.to_owned(), ..Open::default() };
        }
        ensure!(!open.has_samples, "{what} after samples");
        match what {
            "HELP" => {
                ensure!(!open.has_help && !text.trim().is_empty(), "HELP twice or empty");
                open.has_help = true;
            }
            "TYPE" => {
                ensure!(open.kind.is_empty(), "TYPE twice");
                let kinds: &[&str] = if is_open_metrics {
                    &["counter", "gauge", "histogram", "info"]
                } else {
                    &["counter", "gauge", "histogram"]
                };
                ensure!(kinds.contains(&text), "no such type here");
                text.clone_into(&mut open.kind);
                self.families.insert(name.to_owned(), text.to_owned());
            }
            "UNIT" => {
                ensure!(is_open_metrics && name.ends_with(&format!("_{text}")), "the name has another unit");
            }
            _ => bail!("no such comment"),
        }
        Ok(())
    }

    fn sample(&mut self, line: &str, open: &mut Open, is_open_metrics: bool) -> Result<()> {
        ensure!(open.has_help && !open.kind.is_empty(), "no HELP or no TYPE before it");
        let (series, value) = line.rsplit_once(' ').context("no value")?;
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, labels(rest.strip_suffix('}').context("no closing bracket")?)?),
            None => (series, Labels::new()),
        };
        let suffix = name.strip_prefix(&open.name).context("a sample of another family")?;
        let suffixes: &[&str] = match (&*open.kind, is_open_metrics) {
            ("counter", true) => &["_total"],
            ("info", true) => &["_info"],
            ("histogram", _) => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        ensure!(suffixes.contains(&suffix), "a sample of a {} may not be {name}", open.kind);
        ensure!(open.kind != "counter" || name.ends_with("_total"), "a counter's name ends in _total");
        let value: f64 = value.parse().context("not a number")?;
        ensure!(value.is_finite(), "no number to count with");
        ensure!(open.kind == "gauge" || value >= 0.0, "a {} below zero", open.kind);
        open.has_samples = true;
        let is_new = self.samples.insert((name.to_owned(), labels), value).is_none();
        ensure!(is_new, "the series comes twice");
        Ok(())
    }

    fn check_histograms(&self) -> Result<()> {
        for (name, _) in self.families.iter().filter(|(_, kind)| *kind == "histogram") {
            for (labels, count) in self.series(&format!("{name}_count")) {
                let mut buckets = Vec::new();
                for (with_bound, value) in self.series(&format!("{name}_bucket")) {
                    let mut plain = with_bound.clone();
                    let bound = plain.remove("le").with_context(|| format!("{name}: a bucket without le"))?;
                    if plain == *labels {
                        buckets.push((bound.parse::<f64>()?, value));
                    }
                }
                buckets.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
                ensure!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{name}: buckets fall");
                ensure!(buckets.last() == Some(&(f64::INFINITY, count)), "{name}: +Inf is not the count");
                ensure!(
                    self.samples.contains_key(&(format!("{name}_sum"), labels.clone())),
                    "{name}: no sum"
                );
            }
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

/// `a="b",c="d"`, with escapes.
fn labels(text: &str) -> Result<Labels> {
    let mut labels = Labels::new();
    let mut rest = text;
    loop {
        let (name, after) = rest.split_once("=\"").context("a label without a value")?;
        ensure!(is_name(name), "{name} is not the name of a label");
        let mut value = String::new();
        let mut letters = after.char_indices();
        let end = loop {
            match letters.next().context("a value without an end")? {
                (at, '"') => break at + 1,
                (_, '\\') => value.push(match letters.next().context("half an escape")?.1 {
                    'n' => '\n',
                    same @ ('"' | '\\') => same,
                    other => bail!("no such escape: {other}"),
                }),
                (_, letter) => value.push(letter),
            }
        };
        ensure!(labels.insert(name.to_owned(), value).is_none(), "the label {name} comes twice");
        match after[end..].strip_prefix(',') {
            Some(more) => rest = more,
            None if after[end..].is_empty() => return Ok(labels),
            None => bail!("no comma between labels"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Exposition;

    const HEAD: &str = "# HELP a_total A.\n# TYPE a_total counter\n";

    #[test]
    fn what_is_right_is_read() {
        let text = format!("{HEAD}a_total{{b=\"x\\\"y,\"}} 3\na_total 1\n");
        let read = Exposition::parse(&text, false).unwrap();
        assert_eq!(
            (read.get("a_total", &[("b", "x\"y,")]), read.get("a_total", &[])),
            (Some(3.0), Some(1.0))
        );
        let open = "# HELP a A.\n# TYPE a counter\na_total 1\n# EOF\n";
        assert_eq!(Exposition::parse(open, true).unwrap().get("a_total", &[]), Some(1.0));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let histogram = "# HELP h H.\n# TYPE h histogram\n";
        for text in [
            "a_total 1\n".to_owned(),
            "# HELP a_total A.\na_total 1\n".to_owned(),
            format!("{HEAD}a_total 1"),
            format!("{HEAD}a_total 1\na_total 2\n"),
            format!("{HEAD}a_total -1\n"),
            format!("{HEAD}a_total NaN\n"),
            format!("{HEAD}b 1\n"),
            format!("{HEAD}a_total{{b=\"1\",b=\"2\"}} 1\n"),
            format!("{HEAD}a_total 1\n# HELP c C.\n# TYPE c gauge\nc 1\n{HEAD}a_total{{x=\"1\"}} 1\n"),
            format!("{histogram}h_bucket{{le=\"+Inf\"}} 2\nh_sum 1\nh_count 3\n"),
            format!("{histogram}h_bucket{{le=\"1\"}} 4\nh_bucket{{le=\"+Inf\"}} 3\nh_sum 1\nh_count 3\n"),
        ] {
            assert!(Exposition::parse(&text, false).is_err(), "{text}");
        }
        assert!(Exposition::parse("# HELP a A.\n# TYPE a counter\na_total 1\n", true).is_err(), "no EOF");
    }
}
