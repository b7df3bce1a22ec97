//! Names of hosts as a container's programs would find them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::container::Container;
use super::files;

/// Where a system keeps the names that it does not ask anybody for, hosts(5).
const HOSTS: &[u8] = b"/etc/hosts";
/// More than such a list has.
const MOST_BYTES: u64 = 1 << 20;
const LOCALHOST: &str = "localhost";

/// The addresses of a host: by the container's own list, else by the resolver of this host, whose
/// name servers are the ones that engines give to their containers.
pub(super) async fn addresses(container: &Container, host: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    if host.eq_ignore_ascii_case(LOCALHOST) {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let listed = listed(container, host).await;
    if !listed.is_empty() {
        return Ok(listed);
    }
    let found = tokio::net::lookup_host((host, 0)).await?;
    Ok(found.map(|address| address.ip()).collect())
}

async fn listed(container: &Container, host: &str) -> Vec<IpAddr> {
    let root = match files::root_of(container).await {
        Ok(root) => root,
        Err(error) => {
            tracing::debug!(%error, "a container's list of hosts");
            return Vec::new();
        }
    };
    let reading = tokio::task::spawn_blocking(move || root.read_file(HOSTS, MOST_BYTES));
    match reading.await {
        Ok(Ok(list)) => in_list(&String::from_utf8_lossy(&list), host),
        // Not every image has one.
        Ok(Err(_)) => Vec::new(),
        Err(error) => {
            tracing::warn!(%error, "a container's list of hosts");
            Vec::new()
        }
    }
}

/// The addresses that a list in the format of hosts(5) has for a host.
fn in_list(list: &str, host: &str) -> Vec<IpAddr> {
    let entries = list.lines().filter_map(|line| {
        let mut fields = line.split('#').next()?.split_whitespace();
        let address = fields.next()?.parse().ok()?;
        fields.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_hosts_is_read_as_its_format_says() {
        let list =
            "127.0.0.1\tlocalhost\n# 10.0.0.1 db\n10.0.0.2  x db DB2 # db3\n::5 db\nnonsense db\n";
        assert_eq!(
            in_list(list, "DB"),
            ["10.0.0.2", "::5"].map(|ip| ip.parse::<IpAddr>().unwrap())
        );
        assert_eq!(in_list(list, "db2").len(), 1);
        assert_eq!(in_list(list, "db3"), [] as [IpAddr; 0]);
        assert_eq!(in_list(list, "10.0.0.2"), [] as [IpAddr; 0]);
    }
}
