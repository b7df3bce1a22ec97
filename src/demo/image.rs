//! The images of the demonstration.

use std::io::Cursor;
use std::path::PathBuf;
use std::process::Stdio;

use super::DemoError;
use super::program::{command, run_for_output};
use crate::backend::image::engine::embedded::store::Store;

/// Makes an image of a kind that `image.sh` knows, in the embedded engine's directory.
pub(super) async fn import(
    engine: PathBuf,
    kind: &str,
    reference: &'static str,
) -> Result<(), DemoError> {
    let mut script = command("sh");
    script.args(["-c", include_str!("image.sh"), "waltgate-demo", kind]).stdout(Stdio::piped());
    let archive = run_for_output(script).await?;
    let importing = tokio::task::spawn_blocking(move || {
        Store::open(&engine)?.import(Cursor::new(archive), reference)
    });
    importing.await.map_err(std::io::Error::other).map_err(DemoError::Task)??;
    Ok(())
}
