//! A container in the words of the OCI runtime specification. What Docker gives a container that
//! asks for nothing special, this one has too.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::cgroups::Cgroups;
use super::super::message::Program;
use super::super::record::Record;
use super::system_calls;
use crate::backend::image::engine::{CPU_PERIOD, cpu_quota};
use crate::config::ContainerNetwork;

/// Docker's default set, without what only makes device files.
const CAPABILITIES: [&str; 13] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
/// Harmless only where the cgroup says which devices may be opened.
const MAKE_DEVICES: &str = "CAP_MKNOD";

const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Where programs are looked for when the image does not say.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Root and its group, with Docker's usual umask.
const UMASK: u32 = 0o022;

/// Files of the container's own that are bound over those of the image.
pub(super) const ETC_FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// What `config.json` of the bundle says.
pub(super) fn container(
    record: &Record,
    id: &str,
    rootfs: &Path,
    etc: &Path,
    cgroups: &Cgroups,
) -> Value {
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    if record.network != ContainerNetwork::Host {
        namespaces.push("network");
    }
    if cgroups.are_usable() {
        namespaces.push("cgroup");
    }
    let mut read_only: Vec<PathBuf> = READ_ONLY.map(PathBuf::from).into();
    // libcontainer does not heed the option of a mount of cgroups v1.
    read_only.extend(cgroups.read_only_in(record.boots_an_os));
    let mut linux = json!({
        "namespaces": namespaces.iter().map(|kind| json!({ "type": kind })).collect::<Vec<_>>(),
        "maskedPaths": MASKED,
        "readonlyPaths": read_only,
        "cgroupsPath": cgroups.path_of(id),
        "rootfsPropagation": "private",
    });
    if let Value::Object(linux) = &mut linux
        && cgroups.are_usable()
    {
        linux.insert("resources".to_owned(), resources(record, cgroups));
    }
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": rootfs, "readonly": false },
        "hostname": record.hostname,
        "process": process(&record.argv, environment(record, &[], record.tty), &record.working_dir,
            record.tty, cgroups),
        "mounts": mounts(record, etc, cgroups),
        "linux": linux,
    })
}

/// What `process.json` says of a program beside process 1.
pub(super) fn program(record: &Record, program: &Program, cgroups: &Cgroups) -> Value {
    let env = environment(record, &program.env, program.terminal);
    process(&program.argv, env, &program.working_dir, program.terminal, cgroups)
}

fn process(
    argv: &[String],
    env: Vec<String>,
    working_dir: &str,
    terminal: bool,
    cgroups: &Cgroups,
) -> Value {
    let mut capabilities = CAPABILITIES.to_vec();
    if cgroups.guard_devices() {
        capabilities.push(MAKE_DEVICES);
    }
    // Not in the bounding set: no program has it.
    let own: Vec<_> = capabilities.iter().copied().chain(system_calls::CAPABILITY).collect();
    json!({
        "terminal": terminal,
        // Changing an operating system is root's work, whoever the image runs its program as.
        "user": { "uid": 0, "gid": 0, "umask": UMASK },
        "args": argv,
        "env": env,
        "cwd": working_dir,
        "capabilities": {
            "bounding": capabilities,
            "effective": own,
            "permitted": own,
        },
    })
}

/// The variables of a program: what every container has, the image's, the request's own.
fn environment(record: &Record, own: &[String], terminal: bool) -> Vec<String> {
    let mut env: Vec<String> = vec![PATH.to_owned(), format!("HOSTNAME={}", record.hostname)];
    if terminal {
        env.push("TERM=xterm".to_owned());
    }
    env.push("HOME=/root".to_owned());
    if record.boots_an_os {
        // Tells systemd that it is in one, systemd(1).
        env.push("container=oci".to_owned());
    }
    for variable in record.env.iter().chain(own) {
        // What is no variable in an image's configuration makes no environment.
        let Some((name, _)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            continue;
        };
        if variable.contains('\0') {
            continue;
        }
        env.retain(|known| known.split_once('=').is_none_or(|(known, _)| known != name));
        env.push(variable.clone());
    }
    env
}

fn resources(record: &Record, cgroups: &Cgroups) -> Value {
    let mut resources = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
    let Value::Object(fields) = &mut resources else {
        return resources;
    };
    // libcontainer adds the usual devices.
    if let Some(bytes) = record.memory {
        // Swap counts too, as with Docker: twice the memory in all.
        fields.insert(
            "memory".to_owned(),
            json!({ "limit": bytes, "swap": bytes.saturating_mul(2) }),
        );
    }
    if let Some(processes) = record.pids {
        fields.insert("pids".to_owned(), json!({ "limit": processes }));
    }
    if let Some(quota) = record.cpus.map(cpu_quota)
        && cgroups.limit_processors()
    {
        fields.insert("cpu".to_owned(), json!({ "quota": quota, "period": CPU_PERIOD }));
    }
    resources
}

fn mounts(record: &Record, etc: &Path, cgroups: &Cgroups) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| {
        json!({
            "destination": destination, "type": kind, "source": source, "options": options,
        })
    };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    if cgroups.are_usable() {
        let access = if record.boots_an_os { "rw" } else { "ro" };
        mounts.push(mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ));
    }
    if record.boots_an_os {
        mounts.extend([
            mount("/run", "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=755"]),
            mount("/run/lock", "tmpfs", "tmpfs", &["nosuid", "nodev", "noexec", "mode=1777"]),
            mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
        ]);
    }
    mounts.extend(ETC_FILES.map(|name| {
        let source = etc.join(name);
        mount(&format!("/etc/{name}"), "bind", &source.to_string_lossy(), &["bind", "rprivate"])
    }));
    mounts.extend(record.read_only_binds.iter().map(|(source, target)| {
        mount(target, "bind", &source.to_string_lossy(), &["bind", "ro", "rprivate"])
    }));
    mounts
}
