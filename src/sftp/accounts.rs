//! The names of users and groups, as the root's own files tell them.

use std::collections::HashMap;

use super::root::Root;

/// More than any system's list that is kept in a file.
const MOST_BYTES: u64 = 4 << 20;

const ROOT: &str = "root";

/// The users and groups of a root.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
    homes: HashMap<String, Vec<u8>>,
}

impl Accounts {
    /// Reads `/etc/passwd` and `/etc/group` of the root. What cannot be read has no names.
    pub(super) fn read(root: &Root) -> Self {
        let mut accounts = Self::default();
        if root.mounted_at().is_some() {
            // Who is who only the machine tells that mounts it; but this one is the same on all.
            accounts.users.insert(0, ROOT.to_owned());
            accounts.groups.insert(0, ROOT.to_owned());
            return accounts;
        }
        for line in lines(root, b"/etc/passwd") {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, _, _, home, ..] = fields.as_slice() else { continue };
            let Ok(uid) = uid.parse() else { continue };
            accounts.users.entry(uid).or_insert_with(|| (*name).to_owned());
            accounts.homes.entry((*name).to_owned()).or_insert_with(|| home.as_bytes().to_owned());
        }
        for line in lines(root, b"/etc/group") {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, gid, ..] = fields.as_slice() else { continue };
            let Ok(gid) = gid.parse() else { continue };
            accounts.groups.entry(gid).or_insert_with(|| (*name).to_owned());
        }
        accounts
    }

    /// The name of a user.
    pub(super) fn user(&self, uid: u32) -> Option<&str> {
        self.users.get(&uid).map(String::as_str)
    }

    /// The name of a group.
    pub(super) fn group(&self, gid: u32) -> Option<&str> {
        self.groups.get(&gid).map(String::as_str)
    }

    /// A user's home.
    pub(super) fn home(&self, user: &str) -> Option<&[u8]> {
        self.homes.get(user).map(Vec::as_slice)
    }
}

fn lines(root: &Root, path: &[u8]) -> Vec<String> {
    let Ok(content) = root.read_file(path, MOST_BYTES) else {
        return Vec::new();
    };
    String::from_utf8_lossy(&content).lines().map(str::to_owned).collect()
}
