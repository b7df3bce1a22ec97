//! Images for other CPUs than the host's.

use std::path::PathBuf;

use super::error::ImageError;

/// Where the kernel lists registered interpreters (Documentation/admin-guide/binfmt-misc.rst).
pub const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";

/// Knows which emulators the kernel has.
pub(super) struct Emulation {
    binfmt_misc: PathBuf,
}

impl Emulation {
    pub(super) fn new(binfmt_misc: PathBuf) -> Self {
        Self { binfmt_misc }
    }

    /// A note for the user when the image's programs run under emulation, `None` when they run
    /// natively. Architectures are in Go's words.
    pub(super) fn note(
        &self,
        image: &str,
        architecture: &str,
        host: &str,
    ) -> Result<Option<String>, ImageError> {
        if runs_natively(architecture, host) {
            return Ok(None);
        }
        if self.is_registered(qemu_name(architecture)) {
            return Ok(Some(format!(
                "Note: image {image} is for {architecture}; it runs under CPU emulation, which is slower."
            )));
        }
        Err(ImageError::NoEmulator {
            image: image.to_owned(),
            architecture: architecture.to_owned(),
            host: host.to_owned(),
        })
    }

    fn is_registered(&self, cpu: &str) -> bool {
        std::fs::read_to_string(self.binfmt_misc.join(format!("qemu-{cpu}")))
            .is_ok_and(|entry| entry.lines().next() == Some("enabled"))
    }
}

fn runs_natively(architecture: &str, host: &str) -> bool {
    architecture == host
        // An image or an engine that does not say.
        || architecture.is_empty()
        || host.is_empty()
        || matches!((architecture, host), ("386", "amd64") | ("arm", "arm64"))
}

fn qemu_name(architecture: &str) -> &str {
    match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "386" => "i386",
        "mipsle" => "mipsel",
        "mips64le" => "mips64el",
        "loong64" => "loongarch64",
        same => same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_for_emulated_images_and_none_for_native_ones() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("qemu-aarch64"),
            "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POF\n",
        )
        .unwrap();
        std::fs::write(directory.path().join("qemu-riscv64"), "disabled\n").unwrap();
        let emulation = Emulation::new(directory.path().to_owned());
        let note = |architecture, host| emulation.note("rpi", architecture, host);
        assert_eq!(
            note("arm64", "amd64").unwrap().unwrap(),
            "Note: image rpi is for arm64; it runs under CPU emulation, which is slower."
        );
        for (architecture, host) in [("amd64", "amd64"), ("386", "amd64"), ("arm", "arm64")] {
            assert_eq!(note(architecture, host).unwrap(), None);
        }
        for missing in ["riscv64", "arm"] {
            let error = note(missing, "amd64").unwrap_err();
            assert!(error.to_string().contains("qemu-user-static"), "{error}");
        }
    }
}
