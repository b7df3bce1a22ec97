//! Containers of images.

/// Why an image target failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {}
