//! The processes of containers, as this host sees them.

/// The number that a process of a container has here, given the one that its engine sees: another
/// if the engine runs in a process namespace of its own (pid_namespaces(7)). Blocks on /proc.
pub(super) fn seen_from_here(engine_pid: i32, container: &str) -> Option<i32> {
    if is_in_container(engine_pid, container) {
        return Some(engine_pid);
    }
    let processes = std::fs::read_dir("/proc").ok()?;
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|&pid| has_number(pid, engine_pid) && is_in_container(pid, container))
}

/// Whether a process has `number` in one of the namespaces below ours: NSpid of proc(5).
fn has_number(pid: i32, number: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
        status
            .lines()
            .filter_map(|line| line.strip_prefix("NSpid:"))
            .flat_map(str::split_whitespace)
            .any(|field| field.parse() == Ok(number))
    })
}

/// Whether the process of this number, as seen here, is one of the container's.
pub(super) fn is_in_container(pid: i32, container: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .is_ok_and(|cgroups| cgroups.contains(container))
}
