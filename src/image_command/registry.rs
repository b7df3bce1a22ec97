//! Images from registries (OCI distribution specification). The only home of oci-client.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::{StreamExt, TryStreamExt};
use libcontainer::oci_spec::image::{Descriptor, Digest, MediaType};
use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{ImageIndexEntry, OciDescriptor};
use oci_client::secrets::RegistryAuth;
use tokio::task::spawn_blocking;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tokio_util::sync::CancellationToken;

use crate::backend::image::engine::embedded::store::Store;
use crate::backend::image::engine::embedded::this_machines_architecture;
use crate::backend::size;
use crate::error_chain::chain;

const CONNECT: Duration = Duration::from_secs(15);
/// Without a byte.
const SILENCE: Duration = Duration::from_secs(60);
/// Docker Hub's entry in Docker's own file.
const DOCKER_HUB: (&str, &str) = ("docker.io", "https://index.docker.io/v1/");
const BAR: usize = 30;

/// Pulls an image, and lists it under the name it was asked for. Returns its identifier.
///
/// # Errors
/// That the registry cannot be reached, has no such image or does not let us in, that its content
/// is damaged, the disk full, or that `stop` was cancelled. What was pulled until then is garbage.
pub(super) async fn pull(
    store: &Store,
    name: &str,
    stop: &CancellationToken,
) -> anyhow::Result<String> {
    let reference: Reference =
        name.parse().map_err(|error| anyhow!("{name:?} is not an image reference: {error}"))?;
    let registry = reference.registry().to_owned();
    let auth = credentials(&registry)?;
    let is_anonymous = auth == RegistryAuth::Anonymous;
    let failed = |error: OciDistributionError| explained(&error, name, &registry, is_anonymous);
    let client = Client::new(ClientConfig {
        protocol: protocol(&registry),
        platform_resolver: Some(Box::new(for_this_machine)),
        connect_timeout: Some(CONNECT),
        read_timeout: Some(SILENCE),
        ..ClientConfig::default()
    });
    let interrupted = || anyhow!("interrupted; nothing of {name} was kept");
    let manifest = stop.run_until_cancelled(client.pull_image_manifest(&reference, &auth)).await;
    let (manifest, _) = manifest.ok_or_else(interrupted)?.map_err(failed)?;
    let _hold = store.hold()?;
    let source = Source { store, client: &client, reference: &reference, stop };
    let told = |failure: Failure| match failure {
        // Also what came of content that ended too early.
        _ if stop.is_cancelled() => interrupted(),
        Failure::Registry(error) => failed(error),
        Failure::Store(error) => error,
        Failure::Interrupted => interrupted(),
    };
    let config = source.fetch(&manifest.config, None).await.map_err(told)?;
    let mut layers = Vec::with_capacity(manifest.layers.len());
    for (number, layer) in manifest.layers.iter().enumerate() {
        let place = (number + 1, manifest.layers.len());
        layers.push(source.fetch(layer, Some(place)).await.map_err(told)?);
    }
    if stop.is_cancelled() {
        return Err(interrupted());
    }
    let config = store.document(config.as_digest_sha256().unwrap_or_default())?;
    let (store, name) = (store.clone(), name.to_owned());
    let added = spawn_blocking(move || store.add_image(&config, layers, Some(&name))).await?;
    Ok(added?)
}

struct Source<'a> {
    store: &'a Store,
    client: &'a Client,
    reference: &'a Reference,
    stop: &'a CancellationToken,
}

enum Failure {
    Interrupted,
    Registry(OciDistributionError),
    Store(anyhow::Error),
}

impl Source<'_> {
    /// Adds content to the store, unless it is there. Shows how far it is where it has a place
    /// among others.
    async fn fetch(
        &self,
        wanted: &OciDescriptor,
        place: Option<(usize, usize)>,
    ) -> Result<Descriptor, Failure> {
        let digest: Digest = wanted
            .digest
            .parse()
            .with_context(|| format!("digest {}", wanted.digest))
            .map_err(Failure::Store)?;
        let size = u64::try_from(wanted.size).unwrap_or(0);
        let descriptor = Descriptor::new(MediaType::from(wanted.media_type.as_str()), size, digest);
        let Some(hex) = descriptor.as_digest_sha256().map(str::to_owned) else {
            return Err(Failure::Store(anyhow!("digest {}: only SHA-256 is known", wanted.digest)));
        };
        if self.store.open_blob(&hex).is_ok() {
            return Ok(descriptor);
        }
        let opening = self.client.pull_blob_stream(self.reference, wanted);
        let opened = self.stop.run_until_cancelled(opening).await.ok_or(Failure::Interrupted)?;
        let stream = opened.map_err(Failure::Registry)?;
        let mut progress = place.map(|(number, of)| Progress::new(number, of, wanted));
        let stream = stream.stream.take_until(self.stop.clone().cancelled_owned());
        let counted = stream.inspect_ok(move |data| {
            if let Some(progress) = &mut progress {
                progress.add(data.len());
            }
        });
        let mut content = SyncIoBridge::new(StreamReader::new(Box::pin(counted)));
        let store = self.store.clone();
        let added = spawn_blocking(move || store.add_blob(&mut content, Some(&hex))).await;
        match added {
            Ok(Ok(_)) => Ok(descriptor),
            Ok(Err(error)) => Err(Failure::Store(error.into())),
            Err(error) => Err(Failure::Store(error.into())),
        }
    }
}

/// How far a layer is, on standard error: a bar on a terminal, a line elsewhere.
struct Progress {
    label: String,
    total: u64,
    done: u64,
    shown: usize,
    is_terminal: bool,
}

impl Progress {
    fn new(number: usize, of: usize, layer: &OciDescriptor) -> Self {
        Self {
            label: format!("layer {number} of {of}"),
            total: u64::try_from(layer.size).unwrap_or(0),
            done: 0,
            shown: usize::MAX,
            is_terminal: io::stderr().is_terminal(),
        }
    }

    fn add(&mut self, bytes: usize) {
        self.done += bytes as u64;
        let part = self.done.min(self.total) * BAR as u64 / self.total.max(1);
        let part = usize::try_from(part).unwrap_or(BAR);
        if self.is_terminal && part != self.shown {
            self.shown = part;
            let (full, empty) = ("#".repeat(part), " ".repeat(BAR - part));
            // Whether anybody sees it changes nothing.
            let _ = write!(io::stderr(), "\r{} [{full}{empty}] {}  ", self.label, size(self.done));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let line = if self.is_terminal {
            "\n".to_owned()
        } else {
            format!("{}: {} of {}\n", self.label, size(self.done), size(self.total))
        };
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// Without encryption only on this machine, as Docker has it.
fn protocol(registry: &str) -> ClientProtocol {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let is_here = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if is_here {
        ClientProtocol::HttpsExcept(vec![registry.to_owned()])
    } else {
        ClientProtocol::Https
    }
}

fn for_this_machine(manifests: &[ImageIndexEntry]) -> Option<String> {
    let wanted = this_machines_architecture();
    let is_suitable = |entry: &&ImageIndexEntry| {
        entry.platform.as_ref().is_some_and(|platform| {
            platform.os.to_string() == "linux" && platform.architecture.to_string() == wanted
        })
    };
    manifests.iter().find(is_suitable).map(|entry| entry.digest.clone())
}

/// What `podman login` and `docker login` have noted for a registry, containers-auth.json(5).
fn credentials(registry: &str) -> anyhow::Result<RegistryAuth> {
    for path in credential_files() {
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let file: serde_json::Value = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not what `podman login` writes", path.display()))?;
        let names = if registry == DOCKER_HUB.0 {
            vec![DOCKER_HUB.0, DOCKER_HUB.1]
        } else {
            vec![registry]
        };
        let noted =
            names.iter().find_map(|name| file.get("auths")?.get(name)?.get("auth")?.as_str());
        let Some(noted) = noted else { continue };
        let decoded =
            BASE64_STANDARD.decode(noted).ok().and_then(|text| String::from_utf8(text).ok());
        match decoded.as_deref().and_then(|text| text.split_once(':')) {
            Some((user, password)) => {
                return Ok(RegistryAuth::Basic(user.to_owned(), password.to_owned()));
            }
            None => bail!("{}: the entry of {registry} cannot be read", path.display()),
        }
    }
    Ok(RegistryAuth::Anonymous)
}

fn credential_files() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let named = variable("REGISTRY_AUTH_FILE");
    let podman = variable("XDG_RUNTIME_DIR").map(|path| path.join("containers/auth.json"));
    let home = variable("HOME");
    let containers = home.as_ref().map(|path| path.join(".config/containers/auth.json"));
    let docker = variable("DOCKER_CONFIG").or(home.map(|path| path.join(".docker")));
    let docker = docker.map(|path| path.join("config.json"));
    [named, podman, containers, docker].into_iter().flatten().collect()
}

/// In words that say what to try.
fn explained(
    error: &OciDistributionError,
    name: &str,
    registry: &str,
    is_anonymous: bool,
) -> anyhow::Error {
    let unknown = |code: &OciErrorCode| {
        matches!(code, OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown)
    };
    let denied =
        |code: &OciErrorCode| matches!(code, OciErrorCode::Unauthorized | OciErrorCode::Denied);
    let has = |wanted: &dyn Fn(&OciErrorCode) -> bool| match error {
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().any(|error| wanted(&error.code))
        }
        _ => false,
    };
    match error {
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_) => not_let_in(registry, is_anonymous),
        _ if has(&denied) => not_let_in(registry, is_anonymous),
        OciDistributionError::ImageManifestNotFoundError(_) => {
            anyhow!("{registry} has no image {name}")
        }
        _ if has(&unknown) => anyhow!("{registry} has no image {name}"),
        OciDistributionError::RequestError(error) => {
            anyhow!("{registry} cannot be reached: {}", chain(error))
        }
        OciDistributionError::ImageIndexParsingNoPlatformResolverError => {
            anyhow!("{name}: there is none for linux/{}", this_machines_architecture())
        }
        error => anyhow!("{name}: {}", chain(error)),
    }
}

fn not_let_in(registry: &str, is_anonymous: bool) -> anyhow::Error {
    if is_anonymous {
        anyhow!(
            "{registry} wants to know who asks, or has no such image; try `podman login {registry}`"
        )
    } else {
        anyhow!("{registry} refuses the user or password; try `podman login {registry}` again")
    }
}
