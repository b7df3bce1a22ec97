//! Container specifications in the words of the Docker API.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, ExecConfig, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigLogConfig, Mount, MountType,
};

use crate::backend::image::engine::{CPU_PERIOD, ContainerSpec, ExecSpec, cpu_quota};
use crate::config::ContainerNetwork;

/// What the engine takes as the user's wish to leave a terminal, and then swallows. There is no
/// way to switch this off, so it is made a sequence that nobody types by accident. Its first key,
/// ctrl-@, is passed on when the next key shows that it was not this sequence.
pub(super) const DETACH_KEYS: &str = "ctrl-@,ctrl-_,ctrl-^,ctrl-@,ctrl-^,ctrl-_,ctrl-^,ctrl-@,\
     ctrl-_,ctrl-_,ctrl-^,ctrl-@,ctrl-@,ctrl-^,ctrl-_,ctrl-@";

/// Changing an operating system is root's work, whoever the image runs its program as.
pub(super) const ROOT: &str = "0";

/// Present on hosts where all controllers are in the unified hierarchy, cgroups(7).
const UNIFIED_HIERARCHY: &str = "/sys/fs/cgroup/cgroup.controllers";
/// systemd's own hierarchy on the other hosts.
const SYSTEMD_HIERARCHY: &str = "/sys/fs/cgroup/systemd";
/// How systemd as process 1 is asked to halt, systemd(1).
const HALT_SIGNAL: &str = "SIGRTMIN+3";

/// `user`: whom process 1 runs as, when that is not the image's own choice.
pub(super) fn container(
    spec: &ContainerSpec,
    podman: bool,
    user: Option<&str>,
) -> ContainerCreateBody {
    let mut env = spec.env.clone();
    let mut argv = spec.argv.clone();
    let mut host = HostConfig {
        memory: spec.memory.map(clamped),
        pids_limit: spec.pids.map(clamped),
        // Not `nano_cpus`: of that, Docker refuses more than this machine has.
        cpu_period: spec.cpus.map(|_| CPU_PERIOD),
        cpu_quota: spec.cpus.map(cpu_quota),
        network_mode: network_mode(spec.network).map(str::to_owned),
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        mounts: Some(
            spec.read_only_binds
                .iter()
                .map(|(source, target)| bind(&source.display().to_string(), target, true))
                .collect(),
        ),
        ..HostConfig::default()
    };
    if spec.boots_an_os {
        if podman {
            argv = in_podmans_systemd_mode(argv);
        } else {
            env.push("container=docker".to_owned());
            host.tmpfs = Some(HashMap::from([
                tmpfs("/run", "rw,exec,nosuid,nodev,mode=755"),
                tmpfs("/run/lock", "rw,noexec,nosuid,nodev,mode=1777"),
                tmpfs("/tmp", "rw,exec,nosuid,nodev,mode=1777"),
            ]));
            if Path::new(UNIFIED_HIERARCHY).exists() {
                host.cgroupns_mode = Some(HostConfigCgroupnsModeEnum::PRIVATE);
            } else if Path::new(SYSTEMD_HIERARCHY).is_dir() {
                host.mounts.get_or_insert_default().push(bind(
                    SYSTEMD_HIERARCHY,
                    SYSTEMD_HIERARCHY,
                    false,
                ));
            }
        }
    }
    let mut argv = argv.into_iter();
    ContainerCreateBody {
        image: Some(format!("sha256:{}", spec.image_id)),
        entrypoint: argv.next().map(|program| vec![program]),
        cmd: Some(argv.collect()),
        env: Some(env),
        user: user.map(str::to_owned),
        working_dir: Some(spec.working_dir.clone()),
        hostname: Some(spec.hostname.clone()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        tty: Some(spec.tty),
        open_stdin: Some(spec.stdin),
        // Process 1 sees the end of its input when the gateway's stream ends, however it ends.
        stdin_once: Some(spec.stdin),
        attach_stdin: Some(spec.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        stop_signal: spec.boots_an_os.then(|| HALT_SIGNAL.to_owned()),
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

pub(super) fn exec(spec: &ExecSpec) -> ExecConfig {
    ExecConfig {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        detach_keys: spec.tty.then(|| DETACH_KEYS.to_owned()),
        tty: Some(spec.tty),
        env: Some(spec.env.clone()),
        cmd: Some(spec.argv.clone()),
        user: Some(ROOT.to_owned()),
        working_dir: Some(spec.working_dir.clone()),
        ..ExecConfig::default()
    }
}

/// Podman prepares a container for systemd (`podman run --systemd`), with a writable cgroup among
/// other things, when the command looks like one of systemd; its Docker API has no other way to
/// ask for it. It looks at the last path component of what `/bin/sh -c` runs.
fn in_podmans_systemd_mode(argv: Vec<String>) -> Vec<String> {
    let command = format!("exec {} # /systemd", argv.join(" "));
    vec!["/bin/sh".to_owned(), "-c".to_owned(), command]
}

/// In the engine's words, `None` for its own choice.
fn network_mode(network: ContainerNetwork) -> Option<&'static str> {
    match network {
        ContainerNetwork::Loopback => Some("none"),
        ContainerNetwork::Own => None,
        ContainerNetwork::Host => Some("host"),
    }
}

fn bind(source: &str, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_owned()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

fn tmpfs(path: &str, options: &str) -> (String, String) {
    (path.to_owned(), options.to_owned())
}

fn clamped(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
