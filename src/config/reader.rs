//! Walks a TOML file table by table and collects every problem together with its place.
//!
//! Knows nothing of what the keys mean: [`super::sections`] and [`super::nodes`] do.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value together with its place in the file.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// What a reader of one value returns: the typed value, or all that is wrong with it.
pub(super) type Read<T> = Result<T, Vec<Fault>>;

/// Something wrong with a value; `offset` is in bytes from the start of the file.
pub(super) struct Fault {
    pub(super) offset: usize,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn at(value: &Value<'_>, message: impl Into<String>) -> Vec<Self> {
        vec![Self { offset: value.span().start, message: message.into() }]
    }
}

/// One thing to say about a configuration file, and where: `FILE:LINE: [section] key: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named to [`Config::load`](super::Config::load).
    pub file: PathBuf,
    /// The line, from 1; `None` if the file could not be read at all.
    pub line: Option<usize>,
    /// The table, as in `nodes.rpi1`; `None` outside of any.
    pub section: Option<String>,
    /// The key, unless the whole table is meant.
    pub key: Option<String>,
    /// What is wrong and what to do, in one line. Never holds a secret.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        match (&self.section, &self.key) {
            (Some(section), Some(key)) => write!(f, ": [{section}] {key}")?,
            (Some(section), None) => write!(f, ": [{section}]")?,
            (None, Some(key)) => write!(f, ": {key}")?,
            (None, None) => {}
        }
        write!(f, ": {}", self.message)
    }
}

/// Collects what is wrong with one file.
pub(super) struct Report {
    file: PathBuf,
    /// Byte offsets of the line ends.
    newlines: Vec<usize>,
    errors: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl Report {
    pub(super) fn new(file: &Path, text: &[u8]) -> Self {
        let newlines = (0..text.len()).filter(|&at| text.get(at) == Some(&b'\n')).collect();
        Self {
            file: file.to_owned(),
            newlines,
            errors: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    fn problem(
        &self,
        offset: usize,
        section: Option<&str>,
        key: Option<&str>,
        message: String,
    ) -> Problem {
        Problem {
            file: self.file.clone(),
            line: Some(1 + self.newlines.partition_point(|&end| end < offset)),
            section: section.map(str::to_owned),
            key: key.map(str::to_owned),
            message,
        }
    }

    /// Reports an error of the file's syntax.
    pub(super) fn syntax_error(&self, offset: usize, message: String) {
        let problem = self.problem(offset, None, None, message);
        self.errors.borrow_mut().push(problem);
    }

    fn error(&self, offset: usize, section: Option<&str>, key: Option<&str>, message: String) {
        let problem = self.problem(offset, section, key, message);
        self.errors.borrow_mut().push(problem);
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    /// The errors and the warnings, each in the order of the file.
    pub(super) fn finish(self) -> (Vec<Problem>, Vec<Problem>) {
        let mut errors = self.errors.into_inner();
        let mut warnings = self.warnings.into_inner();
        errors.sort_by_key(|problem| problem.line);
        warnings.sort_by_key(|problem| problem.line);
        (errors, warnings)
    }
}

/// The whole file: a table of sections.
pub(super) struct Root<'r, 'i> {
    report: &'r Report,
    table: DeTable<'i>,
    known: Vec<&'static str>,
}

impl<'r, 'i> Root<'r, 'i> {
    pub(super) fn new(report: &'r Report, table: DeTable<'i>) -> Self {
        Self { report, table, known: Vec::new() }
    }

    /// The table `[name]`, if the file has it.
    pub(super) fn section(&mut self, name: &'static str) -> Option<Section<'r, 'i>> {
        self.known.push(name);
        let (key, value) = self.table.remove_entry(name)?;
        let offset = key.span().start;
        match value.into_inner() {
            DeValue::Table(table) => {
                Some(Section::new(self.report, name.to_owned(), offset, table))
            }
            other => {
                let message = format!("must be a table, not {}", with_article(&other));
                self.report.error(offset, Some(name), None, message);
                None
            }
        }
    }

    /// The table `[name]`, empty if the file does not have it.
    pub(super) fn section_or_empty(&mut self, name: &'static str) -> Section<'r, 'i> {
        self.section(name)
            .unwrap_or_else(|| Section::new(self.report, name.to_owned(), 0, DeTable::new()))
    }

    /// The tables `[name.*]`, each with the name it goes by.
    pub(super) fn named_sections(&mut self, name: &'static str) -> Vec<(String, Section<'r, 'i>)> {
        let Some(group) = self.section(name) else {
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (key, value) in group.entries {
            let offset = key.span().start;
            let key = key.into_inner().into_owned();
            match value.into_inner() {
                DeValue::Table(table) => {
                    let full_name = format!("{name}.{key}");
                    sections.push((key, Section::new(self.report, full_name, offset, table)));
                }
                _ => {
                    let message = format!("belongs under a table of its own, [{name}.NAME]");
                    self.report.error(offset, Some(name), Some(&key), message);
                }
            }
        }
        sections
    }

    /// Reports the sections that nobody asked for.
    pub(super) fn finish(self) {
        for (key, value) in self.table {
            let offset = key.span().start;
            let name: Cow<'_, str> = key.into_inner();
            if is_section(value.get_ref()) {
                let hint = match nearest(&name, &self.known) {
                    Some(near) => format!("did you mean [{near}]?"),
                    None => format!("the sections are: {}", self.known.join(", ")),
                };
                let message = format!("unknown section; {hint}");
                self.report.error(offset, Some(&name), None, message);
            } else {
                let message = "every key belongs in a section, such as [server]".to_owned();
                self.report.error(offset, None, Some(&name), message);
            }
        }
    }
}

/// One table, whose keys are taken one by one; [`Section::finish`] reports the rest as unknown.
pub(super) struct Section<'r, 'i> {
    report: &'r Report,
    name: String,
    offset: usize,
    entries: DeTable<'i>,
    /// Keys asked for, whether present or not.
    known: Vec<&'static str>,
    /// Where the keys that were present are.
    places: BTreeMap<&'static str, usize>,
    wrong: BTreeSet<&'static str>,
}

impl<'r, 'i> Section<'r, 'i> {
    fn new(report: &'r Report, name: String, offset: usize, entries: DeTable<'i>) -> Self {
        Self {
            report,
            name,
            offset,
            entries,
            known: Vec::new(),
            places: BTreeMap::new(),
            wrong: BTreeSet::new(),
        }
    }

    /// Takes a key. `None` if it is absent, or wrong, which is then reported.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value<'_>) -> Read<T>,
    ) -> Option<T> {
        self.known.push(key);
        let (spanned_key, value) = self.entries.remove_entry(key)?;
        self.places.insert(key, spanned_key.span().start);
        match read(&value) {
            Ok(value) => Some(value),
            Err(faults) => {
                self.wrong.insert(key);
                for fault in faults {
                    let section = Some(self.name.as_str());
                    self.report.error(fault.offset, section, Some(key), fault.message);
                }
                None
            }
        }
    }

    /// Takes a key that must be there.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value<'_>) -> Read<T>,
    ) -> Option<T> {
        let value = self.take(key, read);
        if !self.places.contains_key(key) {
            self.error(key, "is missing");
        }
        value
    }

    /// Whether the key was present but wrong.
    pub(super) fn is_wrong(&self, key: &str) -> bool {
        self.wrong.contains(key)
    }

    /// Reports an error about a key, at its line or else at the section's.
    pub(super) fn error(&self, key: &str, message: impl Into<String>) {
        self.report.error(self.place(key), Some(&self.name), Some(key), message.into());
    }

    /// Reports an error about the section as a whole.
    pub(super) fn error_here(&self, message: impl Into<String>) {
        self.report.error(self.offset, Some(&self.name), None, message.into());
    }

    /// Reports something that works but should be known.
    pub(super) fn warn(&self, key: &str, message: impl Into<String>) {
        let problem =
            self.report.problem(self.place(key), Some(&self.name), Some(key), message.into());
        self.report.warnings.borrow_mut().push(problem);
    }

    fn place(&self, key: &str) -> usize {
        self.places.get(key).copied().unwrap_or(self.offset)
    }

    /// Reports the keys that nobody took.
    pub(super) fn finish(self) {
        for (key, _) in self.entries {
            let hint = match nearest(key.get_ref(), &self.known) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("the keys are: {}", self.known.join(", ")),
            };
            let message = format!("unknown key; {hint}");
            let section = Some(self.name.as_str());
            self.report.error(key.span().start, section, Some(key.get_ref()), message);
        }
    }
}

/// Whether this was written as `[name]` or `[[name]]`.
fn is_section(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Table(_) => true,
        DeValue::Array(elements) => elements.iter().any(|element| element.get_ref().is_table()),
        _ => false,
    }
}

/// "a string", "an integer".
pub(super) fn with_article(value: &DeValue<'_>) -> String {
    let name = value.type_str();
    let article = if name.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {name}")
}

/// The known name that was most likely meant.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    /// Below this share of equal letters, a suggestion is more likely wrong than right.
    const SIMILAR: f64 = 0.5;
    known
        .iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), *known))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}
