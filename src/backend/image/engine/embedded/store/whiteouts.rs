//! How a layer says that something of the layers below is gone: in an archive by names (OCI image
//! specification, layer.md), in overlayfs by devices and attributes.

/// Starts the name of an empty file that hides the file of the rest of the name.
pub(super) const WHITEOUT: &[u8] = b".wh.";
/// Starts names that hide no file.
pub(super) const RESERVED: &[u8] = b".wh..wh.";
/// In a directory: nothing in it comes from below.
pub(super) const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
/// The same to overlayfs, with the value "y".
pub(super) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// Whether an extended attribute belongs to a file and not to where it lies. Those of overlayfs
/// itself would let an archive lead it elsewhere.
pub(super) fn is_kept_xattr(name: &[u8]) -> bool {
    name == b"security.capability"
        || name.starts_with(b"user.")
        || name.starts_with(b"system.posix_acl_")
}
