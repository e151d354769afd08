//! One allocation for each node and zone name: a million endpoints name a few thousand nodes.

use std::collections::HashSet;
use std::sync::Arc;

/// Names that are shared by many objects.
///
/// Names that nobody uses any more are let go when the table has doubled since the last look, so that the table stays
/// within twice of what is in use.
#[derive(Debug, Default)]
pub struct Interner {
    names: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Interner {
    const SMALLEST_SWEEP: usize = 1024;

    /// The shared copy of a name.
    pub fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        if self.names.len() >= self.sweep_at.max(Self::SMALLEST_SWEEP) {
            self.names.retain(|name| Arc::strong_count(name) > 1);
            self.sweep_at = 2 * self.names.len();
        }
        let name: Arc<str> = Arc::from(name);
        self.names.insert(Arc::clone(&name));
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_share_one_allocation() {
        let mut names = Interner::default();
        let (one, two) = (names.intern("node-a"), names.intern("node-a"));
        assert!(Arc::ptr_eq(&one, &two));
        assert!(!Arc::ptr_eq(&one, &names.intern("node-b")));
    }

    #[test]
    fn names_out_of_use_are_let_go() {
        let mut names = Interner::default();
        let kept = names.intern("kept");
        for number in 0..100_000 {
            names.intern(&format!("node-{number}"));
        }
        assert!(names.names.len() <= Interner::SMALLEST_SWEEP, "{}", names.names.len());
        assert!(Arc::ptr_eq(&kept, &names.intern("kept")));
    }
}
