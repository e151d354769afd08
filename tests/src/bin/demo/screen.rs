//! What the demo prints: scenes, lines that say whether something went as it should, and a summary of those.

use std::time::Duration;

/// The checks so far.
#[derive(Default)]
pub(crate) struct Screen {
    scenes: usize,
    checks: Vec<(String, bool)>,
}

impl Screen {
    /// Starts a scene.
    pub(crate) fn scene(&mut self, title: &str) {
        self.scenes += 1;
        println!("\n{}. {title}", self.scenes);
    }

    /// Says what should be so, and whether it is.
    pub(crate) fn check(&mut self, what: &str, is_so: bool) {
        println!("  {} {what}", mark(is_so));
        self.checks.push((what.to_owned(), is_so));
    }

    /// Prints the summary; whether all was as it should be.
    pub(crate) fn close(&self, took: Duration) -> bool {
        let good = self.checks.iter().filter(|(_, is_so)| *is_so).count();
        println!("\nSummary, after {:.1} s", took.as_secs_f64());
        for (what, is_so) in &self.checks {
            println!("  {} {what}", mark(*is_so));
        }
        println!("{good} of {} as they should be.", self.checks.len());
        good == self.checks.len()
    }
}

/// Prints the output of a command under its own name.
pub(crate) fn print_command(line: &str, output: &str) {
    println!("  $ {line}");
    for line in output.lines() {
        println!("  {line}");
    }
}

fn mark(is_so: bool) -> &'static str {
    if is_so { "[ok]  " } else { "[FAIL]" }
}
