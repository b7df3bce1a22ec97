//! What runs in place of the client's program when its credentials say so: `command=` of
//! authorized_keys(5), `force-command` of a certificate.

use crate::backend::Program;

/// Where sshd(8) puts what the client asked for.
pub(super) const ORIGINAL_COMMAND: &str = "SSH_ORIGINAL_COMMAND";

/// The forced command, which finds in its environment what the client asked for. A node's sshd
/// need not accept variables from the gateway, so the command line itself sets this one; every
/// shell of POSIX, and fish, understands it.
pub(super) fn in_place_of(asked: &Program, forced: &str) -> Program {
    let original = match asked {
        Program::Shell => return Program::Exec(forced.to_owned().into()),
        Program::Exec(command) => command.as_ref(),
        Program::Subsystem(name) => name.as_bytes(),
    };
    let mut line = format!("export {ORIGINAL_COMMAND}=").into_bytes();
    quote(original, &mut line);
    line.extend_from_slice(b"; ");
    line.extend_from_slice(forced.as_bytes());
    Program::Exec(line.into())
}

/// Quotes for any shell: backslashes too, as fish gives them a meaning between single quotes. No
/// command line goes on after a NUL.
fn quote(text: &[u8], line: &mut Vec<u8>) {
    line.push(b'\'');
    for &byte in text.iter().take_while(|&&byte| byte != 0) {
        match byte {
            b'\'' => line.extend_from_slice(br#"'"'"'"#),
            b'\\' => line.extend_from_slice(br#"'"\\"'"#),
            _ => line.push(byte),
        }
    }
    line.push(b'\'');
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_that_was_asked_for_leaves_the_command_as_it_is() {
        assert_eq!(in_place_of(&Program::Shell, "a; b"), Program::Exec("a; b".into()));
    }

    #[test]
    #[allow(clippy::unwrap_used, reason = "a test")]
    fn a_shell_reads_back_whatever_was_asked_for() {
        for asked in ["ls -l", "", "'; echo no; '", r#"\'"; $(echo no) `echo no`"#, "a\nb !$\t\\"] {
            let program = in_place_of(
                &Program::Exec(asked.into()),
                "printf '<%s>' \"$SSH_ORIGINAL_COMMAND\"; true",
            );
            let Program::Exec(line) = program else { panic!("not a command line") };
            let line = String::from_utf8(line.to_vec()).unwrap();
            let said = Command::new("sh").args(["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), format!("<{asked}>"));
        }
    }
}
