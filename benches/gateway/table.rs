//! The result: a Markdown table.

use std::fmt;

/// One value per route, as far as it was measured there.
#[derive(Default, Clone, Copy)]
pub(crate) struct Values {
    pub(crate) direct: Option<f64>,
    pub(crate) jump: Option<f64>,
    pub(crate) gateway: Option<f64>,
}

/// The rows measured so far.
pub(crate) struct Table {
    rows: Vec<(String, &'static str, Values)>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { rows: Vec::new() }
    }

    /// Adds a row. The ratios are the gateway's value over the other's.
    pub(crate) fn add(&mut self, what: impl Into<String>, unit: &'static str, values: Values) {
        let what = what.into();
        eprintln!("  {what}: {}", cells(unit, values).join(" | "));
        self.rows.push((what, unit, values));
    }
}

fn cells(unit: &str, values: Values) -> [String; 5] {
    let number = |value: Option<f64>| value.map(|v| format!("{} {unit}", rounded(v)));
    let ratio = |other: Option<f64>| Some(format!("{:.2}", values.gateway? / other?));
    [
        number(values.direct),
        number(values.jump),
        number(values.gateway),
        ratio(values.direct),
        ratio(values.jump),
    ]
    .map(Option::unwrap_or_default)
}

/// Three significant digits are more than two runs agree on.
fn rounded(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| | direct | `ssh -J` | gateway | gateway/direct | gateway/`-J` |")?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: |")?;
        for (what, unit, values) in &self.rows {
            writeln!(f, "| {what} | {} |", cells(unit, *values).join(" | "))?;
        }
        Ok(())
    }
}

/// The middle value.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value that a share of all are not above.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a few thousand samples"
    )]
    let index = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[index]
}
