//! `--devices` and `--pod-devices`: `auto`, `none`, or names and patterns of names.

use std::fmt;
use std::str::FromStr;

/// Bytes of a device's name at most (`IFNAMSIZ`, with its zero byte).
const NAME_BYTES: usize = 15;

/// Which devices are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// Those that the facts say.
    #[default]
    Auto,
    /// None.
    None,
    /// Those of these names.
    Names(Vec<Pattern>),
}

/// A name, or a pattern of names in which `*` stands for any text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern(String);

/// Why a list of devices is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// Nothing between two commas, or nothing at all.
    #[error("a name is empty; `none` selects no device")]
    Empty,
    /// A keyword beside names.
    #[error("`{0}` stands alone, and not in a list; a device of that name is meant by a pattern")]
    Keyword(&'static str),
    /// No device can be called that.
    #[error(
        "`{0}` cannot be the name of a device: 15 bytes at most, without `/`, `:` and blanks; `*` stands for any text"
    )]
    Name(String),
}

impl Selection {
    /// Whether a name is among those that are listed, by itself or by a pattern.
    pub(super) fn lists(&self, name: &str) -> bool {
        self.patterns().iter().any(|pattern| pattern.matches(name))
    }

    /// Whether a name is listed by itself.
    pub(super) fn names(&self, name: &str) -> bool {
        self.patterns().iter().any(|pattern| pattern.0 == name)
    }

    /// What is listed.
    pub(super) fn patterns(&self) -> &[Pattern] {
        match self {
            Self::Auto | Self::None => &[],
            Self::Names(patterns) => patterns,
        }
    }
}

impl Pattern {
    /// Every name that begins so.
    pub fn prefix(prefix: &str) -> Result<Self, SelectionError> {
        format!("{prefix}*").parse()
    }

    /// Whether a name is meant.
    pub fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return self.0 == name };
        let Some(mut name) = name.strip_prefix(first) else { return false };
        let mut parts: Vec<&str> = rest.split('*').collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            let Some(at) = name.find(part) else { return false };
            name = &name[at + part.len()..];
        }
        name.ends_with(last)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for Pattern {
    type Err = SelectionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(SelectionError::Empty);
        }
        let is_of_name = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':' || byte >= 0x80;
        let length = text.bytes().filter(|byte| *byte != b'*').count();
        let is_name = text.bytes().all(is_of_name) && length <= NAME_BYTES && ![".", ".."].contains(&text);
        if is_name { Ok(Self(text.to_owned())) } else { Err(SelectionError::Name(text.to_owned())) }
    }
}

impl FromStr for Selection {
    type Err = SelectionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "auto" => return Ok(Self::Auto),
            "none" => return Ok(Self::None),
            _ => {}
        }
        let mut patterns: Vec<Pattern> = Vec::new();
        for entry in text.split(',').map(str::trim) {
            if let Some(keyword) = ["auto", "none"].into_iter().find(|keyword| *keyword == entry) {
                return Err(SelectionError::Keyword(keyword));
            }
            let pattern = entry.parse()?;
            if !patterns.contains(&pattern) {
                patterns.push(pattern);
            }
        }
        Ok(Self::Names(patterns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_keywords_names_or_patterns() {
        let names =
            |texts: &[&str]| Selection::Names(texts.iter().map(|text| Pattern((*text).to_owned())).collect());
        for (text, wanted) in [
            ("auto", Ok(Selection::Auto)),
            (" none ", Ok(Selection::None)),
            ("eth0", Ok(names(&["eth0"]))),
            ("eth*, bond0,eth*", Ok(names(&["eth*", "bond0"]))),
            ("", Err(SelectionError::Empty)),
            ("eth0,", Err(SelectionError::Empty)),
            ("eth0,auto", Err(SelectionError::Keyword("auto"))),
            ("none,none", Err(SelectionError::Keyword("none"))),
            ("eth0 eth1", Err(SelectionError::Name("eth0 eth1".to_owned()))),
            ("a/b", Err(SelectionError::Name("a/b".to_owned()))),
            ("..", Err(SelectionError::Name("..".to_owned()))),
            ("a234567890123456", Err(SelectionError::Name("a234567890123456".to_owned()))),
        ] {
            assert_eq!(text.parse::<Selection>(), wanted, "{text:?}");
        }
        assert!("a23456789012345".parse::<Pattern>().is_ok());
        let said = SelectionError::Name("a/b".to_owned()).to_string();
        assert!(said.contains("`a/b`") && said.contains("15 bytes"), "{said}");
    }

    #[test]
    fn a_star_stands_for_any_text() {
        let matches = |pattern: &str, name: &str| pattern.parse::<Pattern>().unwrap().matches(name);
        for (pattern, name) in [
            ("eth0", "eth0"),
            ("eth*", "eth"),
            ("eth*", "eth12"),
            ("*", "x"),
            ("*.100", "eth0.100"),
            ("en*s*", "enp0s3"),
            ("a*b*b", "abb"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("eth0", "eth01"),
            ("eth*", "veth1"),
            ("*.100", "eth0.10"),
            ("en*s*", "enp0"),
            ("a*b*b", "ab"),
            ("ab*ba", "aba"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        assert!(Pattern::prefix("cali").unwrap().matches("cali12ab"));
    }
}
