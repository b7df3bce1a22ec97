//! What rsync may, beyond what any program may.

use std::io;

use libcontainer::syscall::syscall::create_syscall;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit, umask};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::failed;
use crate::sftp::Owner;

/// What root's rsync needs for the files of others, capabilities(7):
///
/// - `DAC_OVERRIDE`: reads, lists and writes them whatever their mode. `DAC_READ_SEARCH` would give
///   less of that, and open files by handle, open_by_handle_at(2), in the whole file system;
/// - `FOWNER`: sets their modes, times and ACLs;
/// - `FSETID`: keeps set-group-ID bits that it is told to set.
const OF_FILES: CapabilitySet =
    CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::FOWNER).union(CapabilitySet::FSETID);
/// Gives files away, which only root's rsync may.
const OF_ROOT: CapabilitySet = OF_FILES.union(CapabilitySet::CHOWN);
/// A mask of capabilities has as many bits.
const MOST_CAPABILITIES: u32 = 64;

/// Gives up all rights but those, for good. With an owner the process becomes that user, and what
/// it makes is theirs and stays so.
pub(super) fn give_up(owner: Option<Owner>) -> io::Result<()> {
    let kept = if owner.is_some() { OF_FILES } else { OF_ROOT };
    // As sshd's sessions have it; the gateway's own may let nobody else read.
    umask(Mode::from_raw_mode(0o022));
    // What the gateway itself was started with may be open in all that it starts.
    create_syscall().close_range(0).map_err(io::Error::other)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_no_new_privs(true)?;
    restrict_bounding_set(kept).map_err(failed("cannot give up capabilities"))?;
    clear_ambient_capability_set()?;
    set_thread_groups(&[]).map_err(failed("cannot leave groups"))?;
    let becomes = owner.filter(|owner| owner.uid != 0);
    if let Some(owner) = owner {
        let gid = Gid::from_raw(owner.gid);
        set_thread_res_gid(gid, gid, gid).map_err(failed("cannot become the owner's group"))?;
    }
    if let Some(owner) = becomes {
        let uid = Uid::from_raw(owner.uid);
        set_keep_capabilities(true)?;
        set_thread_res_uid(uid, uid, uid).map_err(failed("cannot become the owner"))?;
    }
    // A program that is executed by root has all that is not bounded; by others, what is ambient.
    let inheritable = if becomes.is_some() { kept } else { CapabilitySet::empty() };
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })
        .map_err(failed("cannot give up capabilities"))?;
    if becomes.is_some() {
        for capability in kept.iter() {
            configure_capability_in_ambient_set(capability, true)
                .map_err(failed("cannot keep capabilities"))?;
        }
    }
    Ok(())
}

fn restrict_bounding_set(kept: CapabilitySet) -> Result<(), Errno> {
    for number in 0..MOST_CAPABILITIES {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel has no more.
            Err(Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
