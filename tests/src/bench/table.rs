//! The one table that each bench prints.

use comfy_table::{CellAlignment, Table, presets};

use super::estimate::{Estimate, Goal, Judgement};

/// A table of figures in one unit per row.
pub(super) struct Report {
    table: Table,
}

/// One line.
pub(super) struct Figure<'a> {
    /// What was measured.
    pub(super) name: &'a str,
    pub(super) unit: &'a str,
    pub(super) estimate: Estimate,
    pub(super) goal: Goal,
    /// How much was measured, and what the estimate leaves out.
    pub(super) note: String,
}

impl Report {
    /// A table without lines.
    pub(super) fn new() -> Self {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["figure", "median", "95 % interval", "unit", "goal", "", "note"]);
        for column in [1, 2, 4] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { table }
    }

    /// Adds a line, and prints it at once to standard error: a bench takes minutes.
    pub(super) fn add(&mut self, figure: &Figure<'_>) {
        let Estimate { median, low, high } = figure.estimate;
        let [median, low, high] = [median, low, high].map(written);
        let judgement = judgement(figure.goal.judge(&figure.estimate));
        eprintln!("{}: {median} [{low}, {high}] {} {judgement}", figure.name, figure.unit);
        let interval = format!("{low} .. {high}");
        let goal = goal(figure.goal);
        self.table.add_row([figure.name, &median, &interval, figure.unit, &goal, judgement, &figure.note]);
    }

    /// Prints the table.
    pub(super) fn print(&self) {
        println!("{}", self.table);
    }
}

/// Three digits that matter, and no fewer than the integer part has; ratios near one get four.
fn written(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 2.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn goal(goal: Goal) -> String {
    match goal {
        Goal::None => String::new(),
        Goal::AtMost(bound) => format!("<= {bound}"),
        Goal::AtLeast { bound, .. } => format!(">= {bound}"),
    }
}

const fn judgement(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Unjudged => "",
        Judgement::Met => "met",
        Judgement::Missed => "missed",
        Judgement::NotResolved => "not resolved",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_the_digits_that_matter() {
        assert_eq!([1_302.4, 70.26, 4.15, 0.987_65].map(written), ["1302", "70.3", "4.15", "0.9877"]);
    }

    #[test]
    fn every_line_shows_goal_and_judgement() {
        let mut report = Report::new();
        let estimate = Estimate { median: 0.95, low: 0.945, high: 0.955 };
        let goal = Goal::AtLeast { bound: 0.99, resolution: 0.02 };
        report.add(&Figure { name: "ratio", unit: "1", estimate, goal, note: "7 pairs".to_owned() });
        let text = report.table.to_string();
        for part in ["ratio", "0.9500", "0.9450 .. 0.9550", ">= 0.99", "missed", "7 pairs"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
