//! A program on a real pseudo-terminal, as a person at a keyboard has it.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::DEADLINE;
use super::log::{Log, end_of};
use super::process::Process;

/// The keyboard and screen of a running program.
pub(crate) struct Terminal {
    keyboard: File,
    screen: Log,
    seen: usize,
    process: Process,
}

impl Terminal {
    /// Starts `command` on a new terminal of 80 by 24, as the leader of its session.
    #[track_caller]
    pub(crate) fn open(command: &mut Command) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = File::from(open(path.as_c_str(), flags, Mode::empty()).unwrap());
        tcsetwinsize(&master, window(80, 24)).unwrap();

        let mut leader = Command::new("setsid");
        leader.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => leader.env(name, value),
                None => leader.env_remove(name),
            };
        }
        leader.env("TERM", "xterm");
        leader
            .stdin(Stdio::from(slave.try_clone().unwrap()))
            .stdout(Stdio::from(slave.try_clone().unwrap()))
            .stderr(Stdio::from(slave));
        let process = Process::spawn(&mut leader);
        // The command holds copies of the slave, and the screen ends with the last one.
        drop(leader);

        let keyboard = File::from(master);
        let screen = Log::collect(keyboard.try_clone().unwrap());
        Self { keyboard, screen, seen: 0, process }
    }

    /// Types.
    #[track_caller]
    pub(crate) fn send(&mut self, keys: impl AsRef<[u8]>) {
        self.keyboard.write_all(keys.as_ref()).unwrap();
    }

    /// Waits until `text` appears after everything that was expected before.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) {
        let found = self.screen.wait_for(self.seen, DEADLINE, |screen| end_of(screen, text));
        let Some(end) = found else {
            panic!(
                "{text:?} does not appear. The screen so far:\n{}\n--- of it, not expected yet: {:?}",
                self.screen.text(),
                String::from_utf8_lossy(&self.screen.bytes()[self.seen..]),
            );
        };
        self.seen += end;
    }

    /// Everything on the screen so far.
    pub(crate) fn screen(&self) -> String {
        self.screen.text()
    }

    /// Changes the window's size.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        tcsetwinsize(&self.keyboard, window(columns, rows)).unwrap();
    }

    /// Kills the client: to the gateway, its connection is lost.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// Waits for the end of the program and of all that it shows; returns its exit code.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let Some(status) = self.process.wait(DEADLINE) else {
            panic!("the program does not end. The screen:\n{}", self.screen.text());
        };
        self.screen.wait_for_end(DEADLINE);
        status.code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- screen\n{}", self.screen.text());
        }
    }
}

fn window(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}
