//! The built gateway as a process.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::Signal;

use super::log::Log;
use super::process::{Process, bound_command};
use super::testbed::Testbed;
use super::{Client, DEADLINE, Engine, Node, Terminal};

/// The program under test.
pub(crate) const WALTGATE: &str = env!("CARGO_BIN_EXE_waltgate");

/// The configuration of a gateway that is not started yet. Clients on this machine are guests
/// unless `auth` says otherwise.
pub(crate) struct GatewaySetup<'a> {
    testbed: &'a Testbed,
    auth: String,
    node_defaults: String,
    limits: String,
    tables: String,
    run_by: Vec<String>,
}

impl<'a> GatewaySetup<'a> {
    /// The default configuration.
    pub(crate) fn new(testbed: &'a Testbed) -> Self {
        Self {
            testbed,
            auth: "open_networks = [\"127.0.0.0/8\"]".to_owned(),
            node_defaults: format!(
                "networks = [\"127.0.0.0/8\"]\nidentity = {:?}\nknown_hosts = {:?}\n\
                 host_key_alias = \"walt.node\"\n",
                testbed.path("identity"),
                testbed.path("known_hosts"),
            ),
            limits: String::new(),
            tables: String::new(),
            run_by: Vec::new(),
        }
    }

    /// The lines of `[auth]`, instead of the default ones.
    pub(crate) fn auth(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.auth);
        self
    }

    /// The lines of `[limits]`.
    pub(crate) fn limits(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.limits);
        self
    }

    /// The lines of `[node_defaults]`, instead of the default ones.
    pub(crate) fn node_defaults(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.node_defaults);
        self
    }

    /// Further lines of `[node_defaults]`.
    pub(crate) fn more_node_defaults(mut self, lines: &str) -> Self {
        self.node_defaults.push_str(lines);
        self.node_defaults.push('\n');
        self
    }

    /// A static node.
    pub(crate) fn node(self, node: &Node) -> Self {
        self.node_with(node, "")
    }

    /// A static node with further lines.
    pub(crate) fn node_with(mut self, node: &Node, lines: &str) -> Self {
        let (name, address) = (node.name(), node.address());
        writeln!(self.tables, "[nodes.{name}]\naddress = \"{address}\"\n{lines}").unwrap();
        self
    }

    /// The engine to run containers on.
    pub(crate) fn engine(self, engine: &Engine) -> Self {
        let table = engine.table(&self.testbed.path("state"));
        self.tables(&table)
    }

    /// Further tables, as they are.
    pub(crate) fn tables(mut self, toml: &str) -> Self {
        self.tables.push_str(toml);
        self.tables.push('\n');
        self
    }

    /// The program that runs the gateway's, with arguments: env, setpriv.
    pub(crate) fn run_by(mut self, program: &[&str]) -> Self {
        self.run_by = program.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Writes the configuration without starting the gateway.
    pub(crate) fn write(&self, listen: &str) -> PathBuf {
        let toml = format!(
            "[server]\nlisten = [\"{listen}\"]\nhost_keys = [{:?}]\nstate_dir = {:?}\n\n\
             [limits]\n{}\n\n[auth]\n{}\n\n[node_defaults]\n{}\n{}",
            self.testbed.path("gateway_host_key"),
            self.testbed.path("state"),
            self.limits,
            self.auth,
            self.node_defaults,
            self.tables,
        );
        self.testbed.write("waltgate.toml", toml)
    }

    /// Starts the gateway and waits until it accepts connections.
    pub(crate) fn start(self) -> Gateway {
        let config = self.write("127.0.0.1:0");
        let client_config = self.testbed.write("ssh_config", CLIENT_CONFIG);
        let (process, log, address) = launch(&self.run_by, &config);
        // A restarted gateway is found where it was.
        self.write(&address.to_string());
        Gateway { config, client_config, address, process, log, run_by: self.run_by }
    }
}

/// Keeps the user's and the system's own settings out, and messages of the client's own few.
const CLIENT_CONFIG: &str = "\
Host *
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    GlobalKnownHostsFile /dev/null
    UpdateHostKeys no
    IdentitiesOnly yes
    IdentityFile none
    IdentityAgent none
    ControlPath none
    ForwardAgent no
    ConnectTimeout 30
    LogLevel ERROR
";

fn launch(run_by: &[String], config: &PathBuf) -> (Process, Log, SocketAddr) {
    let mut process = Process::spawn(
        bound_command(run_by.first().map_or(WALTGATE, String::as_str))
            .args(run_by.iter().skip(1))
            .args((!run_by.is_empty()).then_some(WALTGATE))
            .args(["serve", "-c"])
            .arg(config)
            .env_remove("RUST_LOG")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped()),
    );
    let log = Log::collect(process.stderr.take().unwrap());
    let address = log.wait_for(0, DEADLINE, |log| {
        let text = String::from_utf8_lossy(log);
        let (_, rest) = text.split_once("listening on ")?;
        let end = rest.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ':')))?;
        rest[..end].parse().ok()
    });
    let Some(address) = address else {
        panic!(
            "the gateway does not start with\n{}\nIt says:\n{}",
            fs::read_to_string(config).unwrap(),
            log.text()
        );
    };
    (process, log, address)
}

/// A running gateway.
pub(crate) struct Gateway {
    config: PathBuf,
    client_config: PathBuf,
    address: SocketAddr,
    process: Process,
    log: Log,
    run_by: Vec<String>,
}

impl Gateway {
    /// Its configuration file.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The stock ssh to `user` at the gateway.
    pub(crate) fn ssh(&self, user: &str) -> Client {
        Client::ssh(&self.client_config, self.address, user)
    }

    /// The same by way of another port of this machine.
    pub(crate) fn ssh_through(&self, port: u16, user: &str) -> Client {
        Client::ssh(&self.client_config, ([127, 0, 0, 1], port).into(), user)
    }

    /// The stock scp; `REMOTE:path` in the arguments stands for the gateway as `user`.
    pub(crate) fn scp(&self, user: &str, arguments: &[&str]) -> Client {
        let remote = format!("{user}@{}:", self.address.ip());
        Client::copy("scp", &self.client_config, self.address)
            .arguments(arguments.iter().map(|argument| argument.replace("REMOTE:", &remote)))
    }

    /// The stock rsync; `REMOTE:path` in the arguments stands for the gateway as `user`.
    pub(crate) fn rsync(&self, user: &str, arguments: &[&str]) -> Client {
        let remote = format!("{user}@{}:", self.address.ip());
        Client::rsync(&self.client_config, self.address)
            .arguments(arguments.iter().map(|argument| argument.replace("REMOTE:", &remote)))
    }

    /// The stock sftp, with commands from standard input.
    pub(crate) fn sftp(&self, user: &str, batch: &str) -> Client {
        self.sftp_with(user, &[], batch)
    }

    /// The same with further options.
    pub(crate) fn sftp_with(&self, user: &str, options: &[&str], batch: &str) -> Client {
        Client::copy("sftp", &self.client_config, self.address)
            .option(options)
            .arguments(["-q", "-b", "-"])
            .arguments([format!("{user}@{}", self.address.ip())])
            .stdin(batch.as_bytes())
    }

    /// An interactive login with the stock ssh on a terminal of 80 by 24.
    pub(crate) fn login(&self, user: &str) -> Terminal {
        self.ssh(user).on_terminal()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until its log has `text`.
    #[track_caller]
    pub(crate) fn expect_log(&self, text: &str) {
        let found = self.log.wait_for(0, DEADLINE, |log| super::log::end_of(log, text));
        assert!(found.is_some(), "the gateway never logged {text:?}");
    }

    /// The most memory it ever had resident, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.pid());
        let status = fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes * 1024
    }

    /// How many bytes it keeps on disk in files without a name.
    pub(crate) fn spooled(&self) -> u64 {
        let files = fs::read_dir(format!("/proc/{}/fd", self.process.pid())).unwrap();
        let unlinked = files.flatten().map(|file| file.path()).filter(|path| {
            // A descriptor may be closed meanwhile.
            fs::read_link(path).is_ok_and(|link| link.to_string_lossy().ends_with(" (deleted)"))
        });
        unlinked.filter_map(|path| fs::metadata(path).ok()).map(|file| file.len()).sum()
    }

    /// The CPU time that it took so far, in clock ticks.
    fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.pid())).unwrap();
        // Behind the name, which may contain anything: proc(5) calls these fields 14 and 15.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    /// Waits until it has done nothing for a second: its peers are all stalled.
    pub(crate) fn wait_until_idle(&self) {
        let mut last = 0;
        let mut quiet = 0;
        super::eventually("the gateway is idle", || {
            let now = self.cpu_ticks();
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
            quiet == 50
        });
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&self) -> bool {
        self.process.wait(std::time::Duration::ZERO).is_none()
    }

    /// Asks it to end, and returns its exit code.
    #[track_caller]
    pub(crate) fn stop(&self) -> Option<i32> {
        self.process.signal(Signal::TERM);
        let status = self.process.wait(DEADLINE);
        status.unwrap_or_else(|| panic!("the gateway does not end on SIGTERM")).code()
    }

    /// Kills it.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// Starts it again at the same address, after `stop` or `kill`.
    pub(crate) fn restart(&mut self) {
        assert!(!self.is_running(), "stop or kill the gateway first");
        let (process, log, address) = launch(&self.run_by, &self.config);
        assert_eq!(address, self.address);
        self.process = process;
        self.log = log;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of the gateway\n{}", self.log());
        }
    }
}

/// Runs the program under test with these arguments and this standard input.
pub(crate) fn waltgate(arguments: &[&str], stdin: &[u8]) -> super::Finished {
    let mut command = Command::new(WALTGATE);
    command.args(arguments).env_remove("RUST_LOG").env("NO_COLOR", "1");
    super::client::run(command, stdin)
}

/// The hash that `waltgate hash-password` makes.
pub(crate) fn hash_password(password: &str) -> String {
    let finished = waltgate(&["hash-password"], format!("{password}\n").as_bytes());
    finished.expect_success().text().trim_end().to_owned()
}
