//! How the nodes of a set ended, in a line and in a number.

use std::collections::BTreeMap;

use super::member::{Ended, Outcome};
use crate::backend::ExitStatus;
use crate::names::NodeName;

/// What ssh(1) exits with when it is not the program that failed.
const UNREACHABLE: u32 = 255;
/// What a shell adds to a signal's number.
const SIGNALLED: u32 = 128;
/// Names in the summary; of more, their number is told.
const MOST_NAMED: usize = 20;

/// Collects how they ended.
pub(super) struct Report {
    names: Vec<NodeName>,
    ended: BTreeMap<NodeName, Outcome>,
}

impl Report {
    pub(super) fn new(names: Vec<NodeName>) -> Self {
        Self { names, ended: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, ended: Ended) {
        self.ended.insert(ended.name, ended.outcome);
    }

    /// The highest of all; 255 for a node on which the command did not run to its end.
    pub(super) fn exit_status(&self) -> u32 {
        self.names.iter().map(|name| code(self.ended.get(name))).max().unwrap_or_default()
    }

    /// Which nodes failed, if any did.
    pub(super) fn summary(&self) -> Option<String> {
        let failed: Vec<String> = self
            .names
            .iter()
            .filter(|name| code(self.ended.get(name)) != 0)
            .map(|name| format!("{name} ({})", in_words(self.ended.get(name))))
            .collect();
        if failed.is_empty() {
            return None;
        }
        let mut list = failed.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join(", ");
        if failed.len() > MOST_NAMED {
            list += &format!(" and {} more", failed.len() - MOST_NAMED);
        }
        Some(format!("waltgate: {} of {} nodes failed: {list}", failed.len(), self.names.len()))
    }
}

fn code(outcome: Option<&Outcome>) -> u32 {
    match outcome {
        Some(Outcome::Exited(ExitStatus::Code(code))) => *code,
        Some(Outcome::Exited(ExitStatus::Signal { name, .. })) => {
            SIGNALLED + number_of(name).unwrap_or_default()
        }
        Some(Outcome::Failed(_)) | None => UNREACHABLE,
    }
}

fn in_words(outcome: Option<&Outcome>) -> String {
    match outcome {
        Some(Outcome::Exited(status)) => status.to_string(),
        Some(Outcome::Failed(reason)) => reason.clone(),
        None => "ended in disorder".to_owned(),
    }
}

/// Numbers of RFC 4254's signals on Linux, signal(7).
fn number_of(signal: &str) -> Option<u32> {
    Some(match signal {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "ABRT" => 6,
        "FPE" => 8,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: Vec<(&str, Outcome)>) -> Report {
        let names = outcomes.iter().map(|(name, _)| name.parse().unwrap()).collect();
        let mut report = Report::new(names);
        for (name, outcome) in outcomes {
            report.add(Ended { name: name.parse().unwrap(), outcome });
        }
        report
    }

    fn exited(code: u32) -> Outcome {
        Outcome::Exited(ExitStatus::Code(code))
    }

    #[test]
    fn nothing_is_said_when_all_went_well() {
        let report = report(vec![("rpi1", exited(0)), ("rpi2", exited(0))]);
        assert_eq!((report.exit_status(), report.summary()), (0, None));
    }

    #[test]
    fn the_highest_status_counts_and_all_that_failed_are_named_in_order() {
        let killed = ExitStatus::Signal {
            name: "KILL".to_owned(),
            core_dumped: false,
            message: String::new(),
        };
        let report = report(vec![
            ("rpi9", exited(3)),
            ("rpi2", exited(0)),
            ("rpi1", Outcome::Exited(killed)),
        ]);
        assert_eq!(report.exit_status(), 137);
        let summary = report.summary().unwrap();
        assert_eq!(summary, "waltgate: 2 of 3 nodes failed: rpi9 (exit 3), rpi1 (signal KILL)");
    }

    #[test]
    fn a_node_that_was_not_reached_counts_as_255() {
        let failed = Outcome::Failed("connection refused".to_owned());
        let report = report(vec![("rpi1", failed), ("rpi2", exited(1))]);
        assert_eq!(report.exit_status(), 255);
        assert!(report.summary().unwrap().contains("rpi1 (connection refused), rpi2 (exit 1)"));
    }
}
