//! The three ways to one node, and the machine they are on.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use crate::support::process::run_tool;
use crate::support::{Gateway, Node, Testbed};
use crate::table::{Values, median};

/// A way to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// `ssh NODE`
    Direct,
    /// `ssh -J JUMPHOST NODE`, both of OpenSSH.
    Jump,
    /// `ssh NODE@GATEWAY`
    Gateway,
}

impl Route {
    /// All of them, in the order in which they take turns.
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::Jump, Self::Gateway];

    /// Its name in the clients' configuration.
    fn host(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Jump => "jump",
            Self::Gateway => "gateway",
        }
    }
}

/// The cipher that lines about anything else are measured with.
pub(crate) const CIPHER: &str = "aes128-gcm@openssh.com";

/// The same node under another name, with the gateway keeping no spare connection to it.
pub(crate) const WITHOUT_SPARE: &str = "nospare";

/// The option for ssh that names the same node with a /persist that the gateway serves.
pub(crate) const FROM_DISK: &str = "User=disk";

/// Everything that is measured against. Each step wants a key, also the gateway.
pub(crate) struct Bed {
    pub(crate) node: Node,
    _jump_host: Node,
    pub(crate) gateway: Gateway,
    testbed: Testbed,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let testbed = Testbed::new();
        let node = testbed.sshd("node");
        let jump_host = testbed.sshd("jumphost");
        testbed.write("accounts/bench.pub", testbed.read("identity.pub"));
        let accounts = testbed.path("accounts");
        let gateway = testbed
            .gateway()
            .auth(&format!("accounts_dir = {accounts:?}"))
            .limits("max_startups = 1000\nmax_startups_per_source = 1000")
            .node(&node)
            .tables(&format!(
                "[nodes.{WITHOUT_SPARE}]\naddress = \"{0}\"\nspare_connections = false\n\
                 [nodes.disk]\naddress = \"{0}\"\npersist = {1:?}",
                node.address(),
                node.persist(),
            ))
            .start();
        let bed = Self { node, _jump_host: jump_host, gateway, testbed };
        bed.write_client_configuration(&bed._jump_host.address());
        bed
    }

    fn write_client_configuration(&self, jump_host: &SocketAddr) {
        for cipher in crate::bulk::CIPHERS {
            let mut text = String::new();
            for (name, address, user) in [
                ("direct", self.node.address(), "root"),
                ("jump", self.node.address(), "root"),
                ("jumphost", *jump_host, "root"),
                ("gateway", self.gateway.address(), "node"),
            ] {
                writeln!(
                    text,
                    "Host {name}\n HostName {}\n Port {}\n User {user}",
                    address.ip(),
                    address.port()
                )
                .unwrap();
                if name == "jump" {
                    text.push_str(" ProxyJump jumphost\n");
                }
            }
            write!(
                text,
                "Host *\n Ciphers {cipher}\n KexAlgorithms curve25519-sha256\n \
                 HostKeyAlgorithms ssh-ed25519\n IdentityFile {}\n IdentitiesOnly yes\n \
                 IdentityAgent none\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n \
                 GlobalKnownHostsFile /dev/null\n UpdateHostKeys no\n ControlPath none\n \
                 LogLevel ERROR\n",
                self.testbed.path("identity").display(),
            )
            .unwrap();
            self.testbed.write(configuration_of(cipher), text);
        }
    }

    /// The private key that every server accepts.
    pub(crate) fn identity(&self) -> PathBuf {
        self.testbed.path("identity")
    }

    /// A directory for files of the client's side.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.testbed.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// `PROGRAM -F configuration OPTIONS HOST ARGUMENTS`, of OpenSSH.
    pub(crate) fn ssh(&self, route: Route, options: &[&str], arguments: &[&str]) -> Command {
        self.ssh_with(CIPHER, route, options, arguments)
    }

    /// The same with a cipher.
    pub(crate) fn ssh_with(
        &self,
        cipher: &str,
        route: Route,
        options: &[&str],
        arguments: &[&str],
    ) -> Command {
        let mut command = self.client("ssh", cipher);
        command.args(options).arg(route.host()).args(arguments);
        command
    }

    /// `scp -F configuration OPTIONS ARGUMENTS`; `REMOTE:` stands for the node.
    pub(crate) fn scp(&self, route: Route, options: &[&str], arguments: &[String]) -> Command {
        let remote = format!("{}:", route.host());
        let mut command = self.client("scp", CIPHER);
        command.arg("-q").args(options);
        command.args(arguments.iter().map(|argument| argument.replace("REMOTE:", &remote)));
        command
    }

    /// `rsync -e 'ssh -F configuration OPTIONS' ARGUMENTS`; `REMOTE:` stands for the node.
    pub(crate) fn rsync(&self, route: Route, options: &[&str], arguments: &[&str]) -> Command {
        let remote = format!("{}:", route.host());
        let configuration = self.testbed.path(configuration_of(CIPHER));
        let mut command = Command::new("rsync");
        command.arg("-e");
        command.arg(format!("ssh -F {} {}", configuration.display(), options.join(" ")));
        command.args(arguments.iter().map(|argument| argument.replace("REMOTE:", &remote)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// `sftp -b -` with commands to be given on standard input.
    pub(crate) fn sftp(&self, route: Route) -> Command {
        self.sftp_with(route, &[])
    }

    /// The same with further options.
    pub(crate) fn sftp_with(&self, route: Route, options: &[&str]) -> Command {
        let mut command = self.client("sftp", CIPHER);
        command.args(options).args(["-q", "-b", "-", route.host()]);
        command
    }

    fn client(&self, program: &str, cipher: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-F")
            .arg(self.testbed.path(configuration_of(cipher)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}

fn configuration_of(cipher: &str) -> String {
    format!("ssh_config.{cipher}")
}

/// Runs a client to its end, which must be a good one; returns the seconds it took.
pub(crate) fn seconds(command: &mut Command) -> f64 {
    let started = Instant::now();
    let output = command.output().unwrap();
    let took = started.elapsed().as_secs_f64();
    expect_success(command, &output);
    took
}

pub(crate) fn expect_success(command: &Command, output: &Output) {
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Measures on all routes by turns and returns each one's median.
pub(crate) fn medians(rounds: usize, mut measure: impl FnMut(Route) -> f64) -> Values {
    let mut samples = Route::ALL.map(|_| Vec::with_capacity(rounds));
    for _ in 0..rounds {
        for (route, samples) in Route::ALL.into_iter().zip(&mut samples) {
            samples.push(measure(route));
        }
    }
    let [direct, jump, gateway] = samples.map(|samples| Some(median(&samples)));
    Values { direct, jump, gateway }
}

/// User and system CPU seconds that a process has used so far.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The program's name may hold spaces; fields are counted after its closing parenthesis.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u32 =
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u32>().unwrap()).sum();
    // USER_HZ is 100 on every Linux (proc(5)).
    f64::from(ticks) / 100.0
}

/// What the figures are from.
pub(crate) fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown CPU", |rest| rest.trim_start_matches(['\t', ' ', ':']));
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let client = Command::new("ssh").arg("-V").output().unwrap().stderr;
    let client = String::from_utf8_lossy(&client);
    format!(
        "{cores} cores of {model}, Linux {}, {}",
        run_tool(Command::new("uname").arg("-r")),
        client.split(',').next().unwrap_or_default().trim()
    )
}
