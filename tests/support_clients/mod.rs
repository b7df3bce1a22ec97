//! What each client is tried on, and the table that says what passed.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use crate::support::client::run;
use crate::support::process::{bound_command, run_tool};
use crate::support::testbed::unused_address;
use crate::support::{Engine, Finished, Gateway, Image, Node, Terminal, Testbed, eventually};

/// A node, the /persist of one that is off, and an image behind one gateway, and alice's key in the formats that clients read.
pub(crate) struct Bed<'a> {
    pub(crate) testbed: &'a Testbed,
    image: Image<'a>,
    _nodes: [Node; 2],
    gateway: Gateway,
}

/// What a client is tried on.
pub(crate) struct Place<'a> {
    pub(crate) bed: &'a Bed<'a>,
    /// The name in the table.
    name: &'static str,
    /// The SSH user name.
    pub(crate) user: String,
    /// A directory in it to put files into.
    pub(crate) directory: String,
}

impl<'a> Bed<'a> {
    pub(crate) fn new(testbed: &'a Testbed, engine: &'a Engine) -> Self {
        let accounts = testbed.path("accounts");
        fs::create_dir_all(&accounts).unwrap();
        testbed.generate_key("alice", "ed25519");
        testbed.write("accounts/alice.pub", testbed.read("alice.pub"));
        let nodes = [testbed.sshd("rpi1"), testbed.sshd_off("rpi2")];
        let disk = testbed.path("disk");
        fs::create_dir(&disk).unwrap();
        let gateway = testbed
            .gateway()
            .auth(&format!("open_networks = []\naccounts_dir = {accounts:?}"))
            .node(&nodes[0])
            .node_with(&nodes[1], &format!("persist = {disk:?}"))
            .engine(engine)
            .start();
        Self { testbed, image: engine.image("alice", "limited"), _nodes: nodes, gateway }
    }

    fn places(&self) -> [Place<'_>; 3] {
        let [user, off] = ["rpi1", "rpi2"].map(str::to_owned);
        let persist = || "/persist".to_owned();
        [
            Place { bed: self, name: "node", user, directory: persist() },
            Place { bed: self, name: PERSIST, user: off, directory: persist() },
            Place {
                bed: self,
                name: "image",
                user: self.image.user(),
                directory: "/root".to_owned(),
            },
        ]
    }

    pub(crate) fn port(&self) -> String {
        self.gateway.address().port().to_string()
    }

    /// Alice's private key, in OpenSSH's format.
    pub(crate) fn key(&self) -> String {
        self.testbed.path("alice").display().to_string()
    }

    /// The same in PuTTY's.
    pub(crate) fn putty_key(&self) -> String {
        let converted = self.testbed.path("alice.ppk").display().to_string();
        run_tool(Command::new("puttygen").args([&self.key(), "-O", "private", "-o", &converted]));
        converted
    }

    /// The same in dropbear's.
    pub(crate) fn dropbear_key(&self) -> String {
        let converted = self.testbed.path("alice.dropbear").display().to_string();
        let arguments = ["openssh", "dropbear", &self.key(), &converted];
        run_tool(Command::new("dropbearconvert").args(arguments));
        converted
    }

    /// The fingerprint of the gateway's host key.
    pub(crate) fn fingerprint(&self) -> String {
        let file = self.testbed.path("gateway_host_key.pub");
        let shown = run_tool(Command::new("ssh-keygen").arg("-lf").arg(file));
        shown.split(' ').nth(1).unwrap().to_owned()
    }

    /// Options of OpenSSH's programs, and of those that start its ssh.
    pub(crate) fn openssh_options(&self) -> Vec<String> {
        let config = self.testbed.path("ssh_config").display().to_string();
        let identity = format!("IdentityFile={}", self.key());
        vec!["-F".to_owned(), config, "-o".to_owned(), identity]
    }

    /// A program whose home directory is the test's own.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = bound_command(program);
        command.env("HOME", self.testbed.path("")).current_dir(self.testbed.path(""));
        command
    }
}

impl Place<'_> {
    /// `user@host`.
    pub(crate) fn destination(&self) -> String {
        format!("{}@127.0.0.1", self.user)
    }

    pub(crate) fn is_image(&self) -> bool {
        self.name == "image"
    }
}

/// The place that is a node's /persist while it is off: the server's disk.
pub(crate) const PERSIST: &str = "/persist";

/// What a client can do, in the order of the table's columns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ability {
    Command,
    Terminal,
    Files,
    Forward,
}

const COLUMNS: [Ability; 4] =
    [Ability::Command, Ability::Terminal, Ability::Files, Ability::Forward];

/// Tries what a client can do, on each place that it is for, and compares with its row of
/// docs/clients.md.
pub(crate) struct Trial<'a> {
    program: &'a str,
    version: String,
    bed: Bed<'a>,
    passed: Vec<(Ability, Vec<&'static str>)>,
}

impl<'a> Trial<'a> {
    pub(crate) fn of(program: &'a str, version: &str, bed: Bed<'a>) -> Self {
        Self { program, version: version.to_owned(), bed, passed: Vec::new() }
    }

    /// `attempt` panics if the client fails.
    pub(crate) fn can(self, ability: Ability, attempt: impl Fn(&Place<'_>)) -> Self {
        match ability {
            Ability::Files => self.can_on(&["node", PERSIST, "image"], ability, attempt),
            _ => self.can_on(&["node", "image"], ability, attempt),
        }
    }

    pub(crate) fn can_on(
        mut self,
        names: &[&str],
        ability: Ability,
        attempt: impl Fn(&Place<'_>),
    ) -> Self {
        let mut passed = Vec::new();
        for place in self.bed.places().iter().filter(|place| names.contains(&place.name)) {
            attempt(place);
            passed.push(place.name);
        }
        self.passed.push((ability, passed));
        self
    }

    pub(crate) fn finish(self) {
        let cells = COLUMNS.map(|column| {
            let passed = self.passed.iter().find(|(ability, _)| *ability == column);
            passed.map_or("–".to_owned(), |(_, places)| places.join(", "))
        });
        expect_row(self.program, &self.version, &cells.join(" | "));
    }
}

/// The table's row must say what passed; WALTGATE_WRITE_CLIENTS=1 has it written instead. Which
/// version passed is only written: machines differ in that.
#[track_caller]
fn expect_row(program: &str, version: &str, cells: &str) {
    static WRITING: Mutex<()> = Mutex::new(());
    let _turn = WRITING.lock().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    let text = fs::read_to_string(&file).unwrap();
    let start = format!("| {program} | ");
    let row = text.lines().find(|line| line.starts_with(&start));
    if std::env::var_os("WALTGATE_WRITE_CLIENTS").is_some() {
        let (head, rows) = text.split_once("| --- |").unwrap();
        let (rule, rows) = rows.split_once('\n').unwrap();
        let new = format!("{start}{version} | {cells} |");
        let mut rows: Vec<_> = rows.lines().filter(|line| !line.starts_with(&start)).collect();
        rows.push(&new);
        rows.sort_by_key(|row| row.to_lowercase());
        let text = format!("{head}| --- |{rule}\n{}\n", rows.join("\n"));
        return fs::write(&file, text).unwrap();
    }
    let says = row.and_then(|row| row[start.len()..].split_once(" | "));
    assert_eq!(
        says.map(|(_, cells)| cells),
        Some(format!("{cells} |").as_str()),
        "docs/clients.md does not say what passed with {program}; make clients"
    );
}

/// Some data in which every byte occurs: 1 MiB and a bit.
pub(crate) fn all_bytes() -> Vec<u8> {
    (0..=255_u8).cycle().take((1 << 20) + 13).collect()
}

/// A command gets its input, gives its output and its errors apart, and its exit status is told.
/// `client` is everything of the command line but the command.
#[track_caller]
pub(crate) fn runs_a_command(mut client: Command) {
    client.arg("cat; echo oops >&2; exit 7");
    let said = run(client, &all_bytes()).expect_code(7);
    assert!(said.stdout == all_bytes(), "{said:?}");
    assert!(said.stderr.contains("oops"), "{said:?}");
}

/// A shell on a terminal.
#[track_caller]
pub(crate) fn has_a_terminal(client: &mut Command) {
    let mut terminal = Terminal::open(client);
    terminal.send("test -t 0 && echo at a t''erminal\r");
    terminal.expect("at a terminal");
    terminal.send("exit 5\r");
    assert_eq!(terminal.wait(), Some(5));
}

/// Puts a file into the place and takes it out again. `put` gets the file here and the path there,
/// `take` the path there and the file here.
pub(crate) fn files(
    place: &Place<'_>,
    client: &str,
    put: impl FnOnce(&str, &str),
    take: impl FnOnce(&str, &str),
) {
    let here = place.bed.testbed.write(format!("{client}-in"), all_bytes());
    let there = format!("{}/{client}.dat", place.directory);
    put(here.to_str().unwrap(), &there);
    let name = place.name.trim_start_matches('/');
    let back = place.bed.testbed.path(format!("{client}-{name}-out"));
    take(&there, back.to_str().unwrap());
    assert!(fs::read(&back).unwrap() == all_bytes(), "{client}, {}", place.name);
}

/// It ended well.
#[track_caller]
pub(crate) fn succeeds(command: Command, stdin: &str) -> Finished {
    run(command, stdin.as_bytes()).expect_success()
}

/// A connection through the client's `-L` reaches the place. `client` is everything of the command
/// line but the forward and the command.
#[track_caller]
pub(crate) fn forwards(place: &Place<'_>, mut client: Command) {
    let here = unused_address();
    let (port, command) = if place.is_image() {
        (8000, "echo forwarded | nc -l -p 8000")
    } else {
        (talker().port(), "exec sleep 60")
    };
    client.args(["-L", &format!("{here}:localhost:{port}"), &place.destination(), command]);
    let client = crate::support::process::Process::spawn(&mut client);
    eventually("a forwarded connection is answered", || said_at(here) == "forwarded\n");
    client.kill();
}

fn said_at(address: SocketAddr) -> String {
    let mut said = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        // Refused later when nobody listens at the other end yet.
        stream.read_to_string(&mut said).ok();
    }
    said
}

/// A server on this machine, which is the node's.
pub(crate) fn talker() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.write_all(b"forwarded\n").ok();
        }
    });
    address
}

/// The number in the line about `name` that a program prints about its version.
pub(crate) fn version(program: &str, argument: &str, name: &str) -> String {
    let output = Command::new(program).arg(argument).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().find(|line| line.contains(name)).unwrap_or_default();
    line.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.')
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.'))
        .unwrap_or_else(|| panic!("no version in {said}"))
        .to_owned()
}

/// A file of the test's own for scripts.
pub(crate) fn script(place: &Place<'_>, name: &str, text: &str) -> PathBuf {
    place.bed.testbed.write(name, text)
}
