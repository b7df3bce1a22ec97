//! Reads the TOML file.
//!
//! All mistakes of a file are found in one go: [`super::reader`] walks the tables and remembers
//! the problems, [`super::values`] reads single values, [`super::sections`] and [`super::nodes`]
//! say which keys there are.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::reader::{Problem, Report, Root};
use super::{Config, nodes, sections};

/// Something in a configuration file that works but should be known, for the log.
pub type Warning = Problem;

/// A file beyond this size is not a configuration file.
const LARGEST_FILE: u64 = 4 << 20;

/// Everything that is wrong with a configuration file, at least one problem, in the order of
/// the file. Displays as one line each, `FILE:LINE: [section] key: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Problem>);

impl ConfigErrors {
    /// The problems, each a line of its own.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }

    /// The file as a whole cannot be used.
    fn unusable(file: &Path, message: String) -> Self {
        Self(vec![Problem { file: file.to_owned(), line: None, section: None, key: None, message }])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A configuration file as far as it can be understood.
#[derive(Debug)]
pub struct Draft {
    /// What it says, with defaults in place of what is wrong; `None` if it is no TOML at all.
    pub config: Option<Config>,
    /// All that is wrong with it, in the order of the file.
    pub errors: Vec<Problem>,
    /// What works but should be known.
    pub warnings: Vec<Warning>,
}

impl Draft {
    /// Whether something is wrong in `[section]`, so that its values are not what is meant.
    pub fn has_errors_in(&self, section: &str) -> bool {
        self.errors.iter().any(|problem| problem.section.as_deref() == Some(section))
    }

    fn finished(self) -> Result<(Config, Vec<Warning>), ConfigErrors> {
        match self.config {
            Some(config) if self.errors.is_empty() => Ok((config, self.warnings)),
            _ => Err(ConfigErrors(self.errors)),
        }
    }
}

impl From<ConfigErrors> for Draft {
    fn from(errors: ConfigErrors) -> Self {
        Self { config: None, errors: errors.0, warnings: Vec::new() }
    }
}

impl Config {
    /// Reads a configuration file. Relative paths in it are relative to its directory.
    ///
    /// Only this one file is looked at: whether the keys, sockets and directories that it names
    /// exist is for their users to find out.
    ///
    /// # Errors
    /// All mistakes of the file, together.
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        Self::draft(path).finished()
    }

    /// Reads a configuration file as [`Config::load`] does, and makes the most of a wrong one: for
    /// finding further problems, not for running.
    pub fn draft(path: &Path) -> Draft {
        Self::try_draft(path).unwrap_or_else(Draft::from)
    }

    fn try_draft(path: &Path) -> Result<Draft, ConfigErrors> {
        let unreadable =
            |err: io::Error| ConfigErrors::unusable(path, format!("cannot be read: {err}"));
        let absolute = std::path::absolute(path).map_err(unreadable)?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > LARGEST_FILE) {
            let message = "is larger than 4 MiB, which no configuration file is".to_owned();
            return Err(ConfigErrors::unusable(path, message));
        }

        let mut draft = Self::draft_of(&bytes, path, base);
        let mut accounts = draft.config.iter().flat_map(|config| config.accounts.values());
        let has_password = accounts.any(|account| account.password.is_some());
        if has_password && metadata.permissions().mode() & 0o004 != 0 {
            draft.warnings.push(exposed_hashes(path));
        }
        Ok(draft)
    }

    /// Reads a configuration from memory. `path` is what messages call it, `base` the directory
    /// that relative paths are relative to.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(
        bytes: &[u8],
        path: &Path,
        base: &Path,
    ) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        Self::draft_of(bytes, path, base).finished()
    }

    fn draft_of(bytes: &[u8], path: &Path, base: &Path) -> Draft {
        let report = Report::new(path, bytes);
        let file = base.join(path.file_name().unwrap_or_default());
        let config = read(bytes, base, file, &report);
        let (errors, warnings) = report.finish();
        Draft { config, errors, warnings }
    }
}

fn exposed_hashes(path: &Path) -> Warning {
    Problem {
        file: path.to_owned(),
        line: None,
        section: Some("accounts".to_owned()),
        key: None,
        message: "password hashes in a file that everyone can read; chmod o-r it".to_owned(),
    }
}

/// The configuration in `bytes`; `None` only after an error that was reported.
fn read(bytes: &[u8], base: &Path, file: PathBuf, report: &Report) -> Option<Config> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(err) => {
            report.syntax_error(err.valid_up_to(), "is not UTF-8 text".to_owned());
            return None;
        }
    };
    let (table, syntax_errors) = DeTable::parse_recoverable(text);
    for err in syntax_errors {
        let offset = err.span().map_or(0, |span| span.start);
        report.syntax_error(offset, err.message().replace('\n', " "));
    }
    if report.has_errors() {
        // What was salvaged of a broken file would only give misleading errors.
        return None;
    }
    let mut root = Root::new(report, table.into_inner());
    let server = sections::server(&mut root, base);
    let limits = sections::limits(&mut root);
    let accounts = sections::accounts(&mut root);
    let auth = sections::auth(&mut root, base, &accounts);
    let walt = sections::walt(&mut root);
    let node_defaults = nodes::node_defaults(&mut root, base, walt.is_some());
    let lobby = server.as_ref().map(|server| &server.lobby);
    let nodes = nodes::nodes(&mut root, base, &node_defaults, lobby);
    let engine = sections::engine(&mut root, base);
    let image_defaults = sections::image_defaults(&mut root);
    let images = sections::images(&mut root);
    root.finish();
    Some(Config {
        file,
        server: server?,
        limits,
        auth: auth?,
        accounts,
        walt,
        node_defaults: node_defaults.options,
        nodes,
        engine,
        image_defaults,
        images,
    })
}

#[cfg(test)]
mod tests;
