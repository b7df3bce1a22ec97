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

impl Config {
    /// Reads a configuration file. Relative paths in it are relative to its directory.
    ///
    /// Only this one file is looked at: whether the keys, sockets and directories that it names
    /// exist is for their users to find out.
    ///
    /// # Errors
    /// All mistakes of the file, together.
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>), ConfigErrors> {
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

        let (config, mut warnings) = Self::parse(&bytes, path, base)?;
        let has_password = config.accounts.values().any(|a| a.password.is_some());
        if has_password && metadata.permissions().mode() & 0o004 != 0 {
            warnings.push(exposed_hashes(path));
        }
        Ok((config, warnings))
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
        let report = Report::new(path, bytes);
        let file = base.join(path.file_name().unwrap_or_default());
        let config = read(bytes, base, file, &report);
        let (errors, warnings) = report.finish();
        match config {
            Some(config) if errors.is_empty() => Ok((config, warnings)),
            _ => Err(ConfigErrors(errors)),
        }
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
