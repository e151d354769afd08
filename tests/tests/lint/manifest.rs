//! Dependencies in a manifest: each one stands under a comment that says what it is for.

/// A dependency of a manifest.
pub(crate) struct Dependency {
    pub(crate) name: String,
    has_reason: bool,
}

/// The dependencies on other people's crates in a manifest's text.
pub(crate) fn dependencies(manifest: &str) -> Vec<Dependency> {
    let mut found = Vec::new();
    let mut is_inside = false;
    let mut before = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            is_inside = line.trim_end_matches(']').ends_with("dependencies");
        } else if is_inside && !line.starts_with('#') && !line.contains("path = \"") {
            // A continuation line of a table has no name before its sign.
            if let Some((name, _)) = line.split_once([' ', '.', '=']).filter(|(name, _)| !name.is_empty()) {
                found.push(Dependency { name: name.to_owned(), has_reason: before.starts_with('#') });
            }
        }
        before = line;
    }
    found
}

/// The dependencies of `file` that nobody has given a reason for.
pub(crate) fn dependencies_without_reason(file: &str, manifest: &str) -> Vec<String> {
    let bare = dependencies(manifest).into_iter().filter(|dependency| !dependency.has_reason);
    bare.map(|dependency| format!("{file}: `{}` has no comment above it that says why", dependency.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::dependencies_without_reason;

    #[test]
    fn a_dependency_without_a_comment_is_a_breach() {
        let manifest = "[workspace.dependencies]\nown = { path = \"own\" }\n# Reason.\naya = \"1\"\nserde = \"1\"\n\n[lints]\nall = 1\n";
        let breaches = dependencies_without_reason("Cargo.toml", manifest);
        assert_eq!(breaches.len(), 1);
        assert!(breaches[0].contains("`serde`"), "{breaches:?}");
    }
}
