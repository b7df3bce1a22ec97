//! Containers of images.

/// Why an image target failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {}

/// STUB
pub struct ImageBackend;
#[allow(missing_docs)]
impl ImageBackend {
    pub fn new(
        _c: &crate::config::Config,
        _i: std::sync::Arc<crate::inventory::Inventories>,
    ) -> Self {
        Self
    }
    pub fn attach(
        &self,
        _c: crate::backend::Caller,
        _i: crate::target::ImageName,
    ) -> std::sync::Arc<dyn crate::backend::Attachment> {
        unreachable!()
    }
    pub async fn reap(&self) {}
    pub async fn check(&self) -> Result<String, String> {
        Ok(String::new())
    }
}
