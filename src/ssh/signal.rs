//! Signal names of RFC 4254 section 6.10, between russh's type and plain text.

use russh::Sig;

/// The name without "SIG".
pub(crate) fn name(signal: Sig) -> String {
    match signal {
        Sig::ABRT => "ABRT".into(),
        Sig::ALRM => "ALRM".into(),
        Sig::FPE => "FPE".into(),
        Sig::HUP => "HUP".into(),
        Sig::ILL => "ILL".into(),
        Sig::INT => "INT".into(),
        Sig::KILL => "KILL".into(),
        Sig::PIPE => "PIPE".into(),
        Sig::QUIT => "QUIT".into(),
        Sig::SEGV => "SEGV".into(),
        Sig::TERM => "TERM".into(),
        Sig::USR1 => "USR1".into(),
        Sig::Custom(name) => name,
    }
}

/// russh sends the text of a custom signal as it is, which serves for the known names too.
pub(crate) fn from_name(name: &str) -> Sig {
    Sig::Custom(name.to_owned())
}
