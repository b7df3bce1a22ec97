//! `waltgate image ...`: what is in the image store of the embedded engine.

mod registry;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

use crate::backend::image::embedded_engine_directory;
use crate::backend::image::engine::embedded::store::Store;
use crate::backend::{ago, size};
use crate::config::Config;
use crate::inventory::image_resolution::ImageReference;

/// Stands for standard input or output.
const STANDARD: &str = "-";
/// As much of an identifier as tells images apart, as Docker shows it.
const SHORT_ID: usize = 12;

/// What to do with images.
#[derive(Debug, Clone, Subcommand)]
pub enum ImageCommand {
    /// List the images.
    List,
    /// Add an image: what `docker save` or `podman save` wrote, an OCI archive, or a plain tar of
    /// a file system; also compressed with gzip or zstd.
    Import {
        /// The archive, or - for standard input.
        file: String,
        /// The image's name: OWNER/NAME, NAME, each with :TAG.
        name: String,
    },
    /// Write an image as an archive that `docker load`, `podman load` and `import` take.
    Export {
        /// The image's name or identifier.
        name: String,
        /// The archive, or - for standard output.
        file: String,
    },
    /// Pull an image from a registry, with what `podman login` or `docker login` noted.
    Pull {
        /// The reference, as for `docker pull`.
        reference: String,
    },
    /// Remove an image's name, and the image with its last name.
    Remove {
        /// The image's name.
        name: String,
    },
    /// Remove what no image and no container needs.
    Gc,
}

/// Does it. Blocks in between: nothing else may run on this runtime. A pull ends when `stop` is
/// cancelled.
///
/// # Errors
/// That it cannot be done; then nothing was changed.
pub async fn run(
    config: &Config,
    command: &ImageCommand,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the embedded engine's images are root's; run this as root");
    }
    let root = embedded_engine_directory(&config.server.state_dir);
    let store = Store::open(&root).context("the image store")?;
    match command {
        ImageCommand::List => list(&store),
        ImageCommand::Import { file, name } => import(&store, file, name),
        ImageCommand::Export { name, file } => export(&store, name, file),
        ImageCommand::Pull { reference } => pull(&store, reference, stop).await,
        ImageCommand::Remove { name } => {
            store.remove(name).map_err(|error| with_advice(error.into()))?;
            say(&format!("Image {name} removed.\n"))
        }
        ImageCommand::Gc => {
            let freed = store.gc()?;
            say(&format!("{} images removed, {} freed.\n", freed.images, size(freed.bytes)))
        }
    }
}

fn list(store: &Store) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for image in store.images()? {
        let bytes = image.manifest.layers().iter().map(|layer| layer.size()).sum();
        let age = image.created().map(|created| created.elapsed().unwrap_or_default());
        let created = age.map_or_else(|| "unknown".to_owned(), ago);
        let id: String = image.id.chars().take(SHORT_ID).collect();
        let row = |name: &str| [name.to_owned(), id.clone(), created.clone(), size(bytes)];
        if image.references.is_empty() {
            rows.push(row("<none>"));
        }
        rows.extend(image.references.iter().map(|name| row(name)));
    }
    rows.sort();
    rows.insert(0, ["NAME", "ID", "CREATED", "SIZE"].map(str::to_owned));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for [name, id, created, size] in &rows {
        let [first, second, third] = widths;
        text += &format!("{name:first$}   {id:second$}   {created:third$}   {size}\n");
    }
    say(&text)
}

fn import(store: &Store, file: &str, name: &str) -> anyhow::Result<()> {
    let parsed: ImageReference = name.parse()?;
    if parsed.digest().is_some() {
        bail!("{name} tells a digest, which is the archive's to tell; give OWNER/NAME or NAME");
    }
    let imported = if file == STANDARD {
        if io::stdin().is_terminal() {
            bail!("standard input is a terminal; give a file, or pipe an archive in");
        }
        store.import(io::stdin(), name).context("standard input")
    } else {
        let archive = File::open(file).with_context(|| format!("cannot open {file}"))?;
        store.import(archive, name).with_context(|| file.to_owned())
    };
    let id = imported?;
    say(&format!("Image {name} imported: {id}\n"))
}

async fn pull(store: &Store, reference: &str, stop: &CancellationToken) -> anyhow::Result<()> {
    let pulled = registry::pull(store, reference, stop).await;
    if pulled.is_err() {
        // What was pulled in vain; another process at work would do it later.
        store.collect_if_idle()?;
    }
    say(&format!("Image {reference} pulled: {}\n", pulled?))
}

fn export(store: &Store, name: &str, file: &str) -> anyhow::Result<()> {
    if file == STANDARD {
        if io::stdout().is_terminal() {
            bail!("standard output is a terminal; give a file, or pipe the archive on");
        }
        return store.export(name, io::stdout().lock()).map_err(|error| with_advice(error.into()));
    }
    // Whole or not at all.
    let path = Path::new(file);
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut half = NamedTempFile::new_in(&directory)
        .with_context(|| format!("cannot write into {}", directory.display()))?;
    store.export(name, &mut half).map_err(|error| with_advice(error.into()))?;
    half.persist(path).map_err(|error| anyhow!("cannot write {file}: {}", error.error))?;
    Ok(())
}

/// What to try when there is no such image.
fn with_advice(error: anyhow::Error) -> anyhow::Error {
    use crate::backend::image::engine::embedded::store::StoreError;
    match error.downcast_ref::<StoreError>() {
        Some(not_found) if not_found.is_not_found() => {
            anyhow!("{not_found}; `waltgate image list` shows the images")
        }
        _ => error,
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        // `waltgate image list | head -1`
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
