//! `waltgate check`: tries everything a running gateway would need, and says all that is wrong.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Authenticator, host_keys};
use crate::backend::image::embedded_engine_directory;
use crate::backend::image::engine::EngineInfo;
use crate::backend::node::check_identity;
use crate::config::{Config, Draft, EngineKind, HostKeyPolicy, NodeOptions};
use crate::gateway::Parts;
use crate::inventory::{Freshness, Inventory as _};
use crate::rsync;

/// How long the WalT server gets to answer.
const WALT_ANSWER: Duration = Duration::from_secs(15);

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What was tried and works, a line each.
    pub fine: Vec<String>,
    /// What works less well than it could, a line each.
    pub notes: Vec<String>,
    /// What is wrong, a line each.
    pub problems: Vec<String>,
}

impl Findings {
    fn note(&mut self, result: Result<String, String>) {
        match result {
            Ok(line) => self.fine.push(line),
            Err(line) => self.problems.push(line),
        }
    }

    /// Whether the sections that say how `what` is to be are free of mistakes; else notes that it is
    /// not tried.
    fn may_try(&mut self, draft: &Draft, what: &str, sections: &[&str]) -> bool {
        let wrong = sections.iter().find(|section| draft.has_errors_in(section));
        if let Some(section) = wrong {
            self.notes.push(format!("{what} is not tried, as [{section}] is wrong"));
        }
        wrong.is_none()
    }

    fn note_engine(&mut self, config: &Config, engine: &EngineInfo) {
        let (product, place) = (&engine.product, engine.place.display());
        let is_embedded = engine.place == embedded_engine_directory(&config.server.state_dir);
        self.fine.push(match (is_embedded, config.engine.kind) {
            (false, _) => format!("[engine]: {product} answers at {place}"),
            (true, EngineKind::Auto) => format!(
                "[engine]: {product}, in {place}; neither Docker nor Podman listens at its usual place"
            ),
            (true, _) => format!("[engine]: {product}, in {place}"),
        });
        self.notes.extend(engine.lacks.iter().map(|lack| format!("[engine]: {lack}")));
    }
}

/// Tries keys, engine and inventory of a configuration, also of a wrong one: what belongs to a section
/// with a mistake in it is left out, as it would be about values that nobody meant. Creates nothing.
pub async fn run(draft: &Draft) -> Findings {
    let mut findings = Findings::default();
    let Some(config) = &draft.config else { return findings };
    if findings.may_try(draft, "[server] host_keys", &["server"]) {
        for path in &config.server.host_keys {
            findings.note(check_host_key(path));
        }
    }
    check_nodes(config, draft, &mut findings);
    if findings.may_try(draft, "[auth] accounts_dir", &["auth"]) {
        check_accounts(config, &mut findings);
    }
    if has_persist(config) {
        match rsync::version().await {
            Ok(line) => findings.fine.push(format!("rsync of /persist: {line}")),
            Err(error) => {
                let note = format!("rsync of /persist goes through the nodes: {error}");
                findings.notes.push(note);
            }
        }
    }

    let background = TaskTracker::new();
    let stop = CancellationToken::new();
    match Parts::new(config, &background, &stop) {
        Ok(parts) => {
            if let Some(walt) = &parts.walt
                && findings.may_try(draft, "[walt] api", &["walt"])
            {
                findings.note(match walt.wait_first(WALT_ANSWER).await {
                    Freshness::Fresh => Ok(format!(
                        "the WalT server lists {} nodes and {} images",
                        walt.nodes().len(),
                        walt.images().len()
                    )),
                    Freshness::Stale { reason, .. } | Freshness::Never { reason } => {
                        Err(format!("[walt] api: {reason}"))
                    }
                });
            }
            if findings.may_try(draft, "[engine]", &["engine", "server"]) {
                match parts.images.check().await {
                    Ok(engine) => findings.note_engine(config, &engine),
                    Err(error) => findings.problems.push(format!("[engine]: {error}")),
                }
            }
        }
        Err(error) => findings.problems.push(error.to_string()),
    }
    stop.cancel();
    background.close();
    background.wait().await;
    findings
}

fn check_accounts(config: &Config, findings: &mut Findings) {
    match Authenticator::new(config) {
        Ok(authenticator) => findings.problems.extend(authenticator.problems()),
        Err(error) => findings.problems.push(error.to_string()),
    }
}

fn check_host_key(path: &Path) -> Result<String, String> {
    if !path.exists() {
        return Ok(format!("[server] host_keys: {} will be created", path.display()));
    }
    match host_keys::load_or_create(&[path.to_owned()]) {
        Ok(_) => Ok(format!("[server] host_keys: {} can be used", path.display())),
        Err(error) => Err(format!("[server] host_keys: {error}")),
    }
}

/// Whether /persist of some node may be on this machine.
fn has_persist(config: &Config) -> bool {
    config.node_defaults.persist_root.is_dir()
        || config.nodes.values().any(|node| {
            node.persist.is_some() || (node.mac.is_some() && node.options.persist_root.is_dir())
        })
}

fn check_nodes(config: &Config, draft: &Draft, findings: &mut Findings) {
    if !findings.may_try(draft, "[node_defaults] identity", &["node_defaults"]) {
        return;
    }
    let mut tried = Vec::new();
    let nodes = config.nodes.iter().map(|(name, node)| (format!("[nodes.{name}]"), &node.options));
    let defaults =
        config.walt.iter().map(|_| ("[node_defaults]".to_owned(), &config.node_defaults));
    for (section, options) in defaults.chain(nodes) {
        if draft.has_errors_in(section.trim_matches(['[', ']'])) {
            continue;
        }
        let key = (options.identity.clone(), options.known_hosts.clone(), options.host_key_policy);
        if tried.contains(&key) {
            continue;
        }
        check_options(&section, options, findings);
        tried.push(key);
    }
}

fn check_options(section: &str, options: &NodeOptions, findings: &mut Findings) {
    findings.note(match check_identity(options) {
        Ok(()) => Ok(format!("{section} identity: {} can be used", options.identity.display())),
        Err(reason) => Err(format!("{section} identity: {reason}")),
    });
    if options.host_key_policy == HostKeyPolicy::Strict {
        let path = options.known_hosts.display();
        findings.note(match std::fs::File::open(&options.known_hosts) {
            Ok(_) => Ok(format!("{section} known_hosts: {path} can be read")),
            Err(error) => Err(format!(
                "{section} known_hosts: {path}: {error}; with host_key_policy = \"strict\" no \
                 node can be reached without it"
            )),
        });
    }
}
