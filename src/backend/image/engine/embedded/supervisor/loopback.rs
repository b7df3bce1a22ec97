//! The loopback of a network namespace, which begins without one.

use std::fs::File;
use std::io;
use std::thread;

use nix::sched::{CloneFlags, setns};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, sendto, socket};

/// rtnetlink(7): change a link.
const RTM_NEWLINK: u16 = 16;
/// netlink(7): the answer to a request, with an error or 0.
const NLMSG_ERROR: u16 = 2;
/// netlink(7): a request, to be answered in any case.
const REQUEST_ACK: u16 = 0x01 | 0x04;
/// netdevice(7)
const IFF_UP: u32 = 1;
/// The loopback is the first interface of a namespace.
const LOOPBACK: i32 = 1;
const LENGTH: u32 = 32;

/// Brings the loopback of a process's network namespace up. The kernel gives it its addresses then.
pub(super) fn bring_up(pid: i32) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    thread::scope(|scope| {
        // Only this thread enters it.
        let entered =
            thread::Builder::new().name("loopback".to_owned()).spawn_scoped(scope, || {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                set_up()
            })?;
        entered.join().unwrap_or_else(|_| Err(io::Error::other("the loopback is not up")))
    })
}

fn set_up() -> io::Result<()> {
    // NETLINK_ROUTE is the protocol 0.
    let netlink = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let request = request();
    sendto(&netlink, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 64];
    let (length, _) = recv(&netlink, &mut answer, RecvFlags::empty())?;
    // struct nlmsghdr, and struct nlmsgerr behind it.
    let kind = answer.get(4..6).map(|kind| [kind[0], kind[1]]);
    let error = answer.get(16..20).map(|error| [error[0], error[1], error[2], error[3]]);
    match (kind.map(u16::from_ne_bytes), error.map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) if length >= 20 => Ok(()),
        (Some(NLMSG_ERROR), Some(error)) if length >= 20 => {
            Err(io::Error::from_raw_os_error(error.saturating_neg()))
        }
        _ => Err(io::Error::other("the kernel does not say whether the loopback is up")),
    }
}

/// struct nlmsghdr and struct ifinfomsg, rtnetlink(7).
fn request() -> Vec<u8> {
    let mut request = Vec::new();
    request.extend(LENGTH.to_ne_bytes());
    request.extend(RTM_NEWLINK.to_ne_bytes());
    request.extend(REQUEST_ACK.to_ne_bytes());
    // Sequence number and sender: there is one request, and the kernel knows who asks.
    request.extend([0; 8]);
    // Family, padding and type of device: any.
    request.extend([0; 4]);
    request.extend(LOOPBACK.to_ne_bytes());
    // The flags, and which of them to change.
    request.extend(IFF_UP.to_ne_bytes());
    request.extend(IFF_UP.to_ne_bytes());
    request
}
