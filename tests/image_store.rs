//! The image store of the embedded engine, with archives of real programs and of hostile ones.
//! Needs root, as the engine does. What a hostile archive would write lies in the test's own
//! temporary directory.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use libcontainer::oci_spec::image::{Descriptor, Digest, MediaType};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar_core::EntryType;
use tar_core::builder::EntryBuilder;
use waltgate::backend::image::engine::embedded::store::{Store, StoreError, StoredImage};
use waltgate::backend::image::engine::{ChangeKind, Publication};

fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Bench {
    directory: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("a/b/engine")).unwrap();
        Self { directory, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Adds an image of these layers, as they come from elsewhere.
    fn add(&self, layers: &[Vec<u8>], name: Option<&str>) -> Result<String, StoreError> {
        let _hold = self.store.hold().unwrap();
        let diff_ids: Vec<_> =
            layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Env": ["COLOUR=blue"], "Healthcheck": {"Test": ["NONE"]}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created": "2020-01-02T03:04:05Z", "created_by": "first"}],
        });
        let blobs = layers.iter().map(|layer| self.blob(layer)).collect();
        self.store.add_image(config.to_string().as_bytes(), blobs, name)
    }

    fn blob(&self, content: &[u8]) -> Descriptor {
        let blob = self.store.add_blob(&mut &content[..], None).unwrap();
        let digest: Digest = format!("sha256:{}", blob.digest).parse().unwrap();
        Descriptor::new(MediaType::ImageLayer, blob.size, digest)
    }

    fn image(&self, name: &str) -> StoredImage {
        self.store.image(name).unwrap()
    }

    fn layers(&self, name: &str) -> Vec<PathBuf> {
        self.store.layer_directories(&self.image(name)).unwrap()
    }

    /// Runs a script in a container's place: on an overlay of an image, that ends with it.
    fn change(&self, name: &str, script: &str) -> PathBuf {
        let upper = tempfile::TempDir::new_in(self.directory.path()).unwrap().keep();
        for part in ["upper", "work", "merged"] {
            fs::create_dir(upper.join(part)).unwrap();
        }
        let lower: Vec<_> =
            self.layers(name).iter().rev().map(|layer| layer.display().to_string()).collect();
        let script = format!(
            "set -e; cd {}; chmod --reference={} upper; mount -t overlay -o redirect_dir=off,metacopy=off,index=off,lowerdir={},\
             upperdir=upper,workdir=work overlay merged; cd merged; {script}",
            upper.display(),
            lower[0],
            lower.join(":"),
        );
        let done = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        upper.join("upper")
    }

    /// What a script prints that looks at an image's files.
    fn look(&self, name: &str, script: &str) -> String {
        let directory = self.change(name, &format!("{{ {script} ; }} >../printed 2>&1"));
        fs::read_to_string(directory.with_file_name("printed")).unwrap()
    }

    fn save(&self, name: &str, upper: &Path) -> String {
        let base = self.image(name).id;
        let files = self.store.commit(&base, upper).unwrap();
        let publication = Publication {
            files: files.clone(),
            base,
            reference: name.to_owned(),
            author: "alice".to_owned(),
            created_by: "waltgate test".to_owned(),
            comment: "saved".to_owned(),
        };
        let id = self.store.publish(&publication).unwrap();
        assert!(self.store.remove_unnamed(&files).unwrap());
        id
    }

    fn everything(&self) -> Vec<String> {
        let found = Command::new("find")
            .args([".", "-path", "./a/b/engine/layers/*/fs/*", "-prune", "-o", "-print"])
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        let mut lines: Vec<_> =
            String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

/// An archive of what a script makes in an empty directory.
fn archive(script: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let script =
        format!("set -e; {script}; tar --numeric-owner --xattrs --xattrs-include='*' -cf - .");
    let done =
        Command::new("sh").args(["-c", &script]).current_dir(directory.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// Path, what it is, what it leads to, content.
type Forged<'a> = (&'a str, EntryType, &'a str, &'a [u8]);

/// An archive of any entries.
fn forged(entries: &[Forged<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (path, kind, link, content) in entries {
        let mut entry = EntryBuilder::new_ustar();
        entry.path(path).link_name(link).entry_type(*kind);
        entry.mode(0o755).unwrap().size(content.len() as u64).unwrap();
        archive.extend(entry.finish_bytes());
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

const FILES: &str = "mkdir -p etc srv/old; echo one >etc/one; echo two >etc/two; echo x >srv/old/x; \
                     echo y >srv/old/y; chmod 1777 srv; chmod 700 .";

#[test]
fn all_that_a_file_is_comes_out_of_an_archive() {
    let bench = Bench::new();
    let script = "echo text >file; chown 12:3456789 file; chmod 6755 file; touch -d @1.5 file; \
                  ln file hard; ln -s /nowhere soft; chown -h 7:8 soft; mkfifo fifo; \
                  mknod null c 1 3; mkdir dir; chmod 2750 dir; touch -d @978307200 dir; \
                  truncate -s 300M sparse; printf end >>sparse; setfattr -n user.note -v blue file; \
                  setcap cap_dac_override,cap_fowner+ep file; \
                  touch \"$(printf 'new\\nline')\"; touch \"$(printf '\\377')\"; \
                  mkdir -p $(printf 'd%.0s' $(seq 150))/$(printf 'e%.0s' $(seq 150))";
    bench.add(&[archive(script)], Some("pc")).unwrap();
    let [layer] = <[PathBuf; 1]>::try_from(bench.layers("pc")).unwrap();
    let file = fs::metadata(layer.join("file")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.nlink()), (12, 3_456_789, 2));
    assert_eq!((file.mtime(), file.mtime_nsec()), (1, 500_000_000));
    assert_eq!(file.permissions().mode() & 0o7777, 0o6755);
    let soft = fs::symlink_metadata(layer.join("soft")).unwrap();
    assert_eq!((soft.uid(), soft.gid()), (7, 8));
    assert_eq!(fs::read_link(layer.join("soft")).unwrap(), Path::new("/nowhere"));
    assert!(fs::symlink_metadata(layer.join("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(fs::metadata(layer.join("null")).unwrap().rdev(), 0x103);
    let directory = fs::metadata(layer.join("dir")).unwrap();
    assert_eq!((directory.mode() & 0o7777, directory.mtime()), (0o2750, 978_307_200));
    let sparse = fs::metadata(layer.join("sparse")).unwrap();
    assert_eq!(sparse.len(), (300 << 20) + 3);
    assert!(sparse.blocks() < 1000, "{} blocks", sparse.blocks());
    let listed = Command::new("sh")
        .args(["-c", "getfattr -n user.note --only-values file; getcap -v file; ls -b"])
        .current_dir(&layer)
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.starts_with("blue"), "{listed}");
    assert!(listed.contains("cap_dac_override,cap_fowner"), "{listed}");
    assert!(listed.contains("new\\nline\n") && listed.contains("\\377\n"), "{listed}");
    let long = layer.join("d".repeat(150)).join("e".repeat(150));
    assert!(long.is_dir());
}

#[test]
fn a_commit_has_the_changes_and_nothing_else() {
    let bench = Bench::new();
    bench.add(&[archive(FILES)], Some("pc")).unwrap();
    let upper = bench.change(
        "pc",
        "rm etc/one; echo TWO >>etc/two; rm -r srv/old; mkdir srv/old; echo z >srv/old/z; \
         mknod dev c 1 5; ln etc/two etc/also; chown 5:6 etc/two; ls -R >/dev/null",
    );
    let image = bench.image("pc");
    let mut changes: Vec<_> = bench
        .store
        .changes(&image, &upper)
        .unwrap()
        .into_iter()
        .map(|change| (change.path, change.kind))
        .collect();
    changes.sort_by(|one, other| one.0.cmp(&other.0));
    use ChangeKind::{Added, Deleted, Modified};
    let expected = [
        ("/dev", Added),
        ("/etc", Modified),
        ("/etc/also", Added),
        ("/etc/one", Deleted),
        ("/etc/two", Modified),
        ("/srv", Modified),
        ("/srv/old", Modified),
        ("/srv/old/x", Deleted),
        ("/srv/old/y", Deleted),
        ("/srv/old/z", Added),
    ];
    let expected: Vec<_> =
        expected.iter().map(|(path, kind)| ((*path).to_owned(), *kind)).collect();
    assert_eq!(changes, expected);
    bench.save("pc", &upper);
    assert_eq!(bench.layers("pc").len(), 2);
    let look = "find . | sort; cat etc/two srv/old/z; stat -c '%n %a %u:%g' . srv; stat -c '%n %a %u:%g %h %t:%T' etc/two dev";
    assert_eq!(
        bench.look("pc", look),
        ".\n./dev\n./etc\n./etc/also\n./etc/two\n./srv\n./srv/old\n./srv/old/z\ntwo\nTWO\nz\n\
         . 700 0:0\nsrv 1777 0:0\netc/two 644 5:6 2 0:0\ndev 644 0:0 1 1:5\n"
    );
    // And again, of the layers merged into one.
    let flat = bench.store.flatten(&bench.image("pc").id, &BTreeMap::new()).unwrap();
    assert_eq!(bench.layers(&flat).len(), 1);
    assert_eq!(bench.look(&flat, look), bench.look("pc", look));
}

#[test]
fn looking_at_files_changes_nothing() {
    let bench = Bench::new();
    bench.add(&[archive(FILES)], Some("pc")).unwrap();
    let upper = bench.change("pc", "cat etc/one; echo gone >new; rm new; chmod 644 etc/one");
    let changes = bench.store.changes(&bench.image("pc"), &upper).unwrap();
    // overlayfs has copied the file, and nobody knows that it is the same.
    let paths: Vec<_> = changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(paths, ["/etc", "/etc/one"]);
    let upper = bench.change("pc", "chmod 755 .");
    let changes = bench.store.changes(&bench.image("pc"), &upper).unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].path, "/");
}

#[test]
fn a_saved_image_keeps_what_others_have_said_about_it() {
    let bench = Bench::new();
    let first = bench.add(&[archive(FILES)], Some("docker.io/library/pc")).unwrap();
    let upper = bench.change("pc:latest", "echo 1 >new");
    let saved = bench.save("pc:latest", &upper);
    let read = |id: &str| -> serde_json::Value {
        serde_json::from_slice(&bench.store.document(id).unwrap()).unwrap()
    };
    assert_eq!(read(&saved)["config"], read(&first)["config"]);
    assert_eq!(read(&saved)["config"]["Healthcheck"]["Test"], json!(["NONE"]));
    let history = bench.store.history(&saved).unwrap();
    let words: Vec<_> = history.iter().map(|step| step.created_by.as_str()).collect();
    assert_eq!(words, ["waltgate test", "first"]);
    assert_eq!(history[0].comment, "saved");
    // The name has moved, the old version is still there for whoever is made of it.
    assert_eq!(bench.store.references().unwrap(), ["pc:latest"]);
    let unnamed: Vec<_> =
        bench.store.unnamed_images().unwrap().into_iter().map(|image| image.id).collect();
    assert_eq!(unnamed, [first]);
}

#[test]
fn whiteouts_of_an_archive_hide_what_is_below_and_nothing_of_their_own_layer() {
    let bench = Bench::new();
    let above = forged(&[
        ("etc/.wh.one", EntryType::Regular, "", b""),
        ("srv/old/.wh..wh..opq", EntryType::Regular, "", b""),
        ("srv/old/z", EntryType::Regular, "", b"z\n"),
        ("srv/.wh..wh.plnk", EntryType::Directory, "", b""),
        ("new", EntryType::Regular, "", b"new\n"),
        (".wh.new", EntryType::Regular, "", b""),
    ]);
    bench.add(&[archive(FILES), above], Some("pc")).unwrap();
    assert_eq!(
        bench.look("pc", "find etc srv new | sort"),
        "etc\netc/two\nnew\nsrv\nsrv/old\nsrv/old/z\n"
    );
}

#[test]
fn hostile_archives_write_nothing_outside_their_layer() {
    use EntryType::{Directory, Link, Regular, Symlink};
    let bench = Bench::new();
    let target = bench.path("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("secret"), "secret").unwrap();
    let absolute = target.display().to_string();
    let up = "../".repeat(12);
    let through_up = format!("{up}{}", absolute.trim_start_matches('/'));
    let secret = format!("{absolute}/secret");
    let up_secret = format!("{through_up}/secret");
    let hostile: [&[Forged<'_>]; 12] = [
        &[("../escaped", Regular, "", b"x")],
        &[(&format!("{through_up}/escaped"), Regular, "", b"x")],
        &[("a/../../escaped", Regular, "", b"x")],
        &[("link", Symlink, &absolute, b""), ("link/escaped", Regular, "", b"x")],
        &[("link", Symlink, &through_up, b""), ("link/escaped", Regular, "", b"x")],
        &[("link", Symlink, &absolute, b""), ("link/dir/", Directory, "", b"")],
        &[("link", Symlink, &absolute, b""), ("link/.wh.secret", Regular, "", b"")],
        &[("link", Symlink, ".", b""), ("link/link/link/x", Regular, "", b"x")],
        &[("hard", Link, &up_secret, b""), ("hard", Regular, "", b"x")],
        &[("link", Symlink, &absolute, b""), ("hard", Link, "link/secret", b"")],
        &[(".wh...", Regular, "", b"")],
        &[("dir/", Directory, "", b""), ("dir", Regular, "", b"x")],
    ];
    for (number, entries) in hostile.iter().enumerate() {
        let before = bench.everything();
        let error = bench.add(&[forged(entries)], Some("hostile")).unwrap_err();
        assert!(matches!(error, StoreError::Invalid { .. } | StoreError::System { .. }), "{error}");
        assert!(error.to_string().contains("layer sha256:"), "{number}: {error}");
        assert_eq!(error.to_string().lines().count(), 1);
        let after = bench.everything();
        let is_blob = |path: &&String| path.contains("/blobs/sha256/");
        let new: Vec<_> =
            after.iter().filter(|path| !before.contains(path)).filter(|p| !is_blob(p)).collect();
        assert!(new.is_empty(), "{number}: {new:?}");
        assert_eq!(fs::read_to_string(target.join("secret")).unwrap(), "secret");
        assert!(bench.store.references().unwrap().is_empty());
    }
    // A link that is replaced is not written through.
    let replaced = [
        ("file", Symlink, secret.as_str(), &b""[..]),
        ("file", Regular, "", b"mine"),
        ("/absolute", Regular, "", b"inside"),
        ("./././dot", Regular, "", b"inside"),
    ];
    bench.add(&[forged(&replaced)], Some("pc")).unwrap();
    let [layer] = <[PathBuf; 1]>::try_from(bench.layers("pc")).unwrap();
    assert_eq!(fs::read_to_string(layer.join("file")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(layer.join("absolute")).unwrap(), "inside");
    assert_eq!(fs::read_to_string(layer.join("dot")).unwrap(), "inside");
    assert_eq!(fs::read_to_string(target.join("secret")).unwrap(), "secret");
    // Names and attributes by which overlayfs itself would be led elsewhere are not taken.
    let mut entry = EntryBuilder::new_ustar();
    entry.path("dir/").entry_type(Directory).mode(0o755).unwrap().size(0).unwrap();
    entry.add_pax("SCHILY.xattr.trusted.overlay.redirect", "/etc");
    entry.add_pax("SCHILY.xattr.user.note", "kept");
    let mut archive = entry.finish_bytes();
    archive.resize(archive.len() + 1024, 0);
    bench.add(&[archive], Some("redirect")).unwrap();
    let listed = Command::new("getfattr")
        .args(["-d", "-m", "-", "dir"])
        .current_dir(&bench.layers("redirect")[0])
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("user.note") && !listed.contains("overlay"), "{listed}");
}

#[test]
fn damaged_content_is_refused_and_leaves_no_image() {
    let bench = Bench::new();
    let layer = archive(FILES);
    let wrong = sha256(b"something else");
    let error = bench.store.add_blob(&mut layer.as_slice(), Some(&wrong)).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    // A configuration that tells another diff ID.
    let blob = bench.blob(&layer);
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{wrong}")]},
    });
    let error =
        bench.store.add_image(config.to_string().as_bytes(), vec![blob], Some("pc")).unwrap_err();
    assert!(error.to_string().contains(&format!("sha256:{}", sha256(&layer))), "{error}");
    for cut in [1, 511, 513, 1100, 2100] {
        assert!(bench.add(&[layer[..cut].to_vec()], Some("pc")).is_err(), "cut at {cut}");
    }
    assert!(bench.add(&[], Some("pc")).is_err());
    assert!(bench.store.references().unwrap().is_empty());
    assert!(bench.store.image("pc").unwrap_err().is_not_found());
    bench.store.gc().unwrap();
    let left = fs::read_dir(bench.path("a/b/engine/blobs/sha256")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn compressed_layers_are_known_by_their_content() {
    let bench = Bench::new();
    let layer = archive(FILES);
    for program in ["gzip", "zstd"] {
        let path = bench.path("layer");
        fs::write(&path, &layer).unwrap();
        let compressed = Command::new(program).arg("-c").arg(&path).output().unwrap();
        assert!(compressed.status.success());
        let blob = bench.blob(&compressed.stdout);
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": [program]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))]},
        });
        bench.store.add_image(config.to_string().as_bytes(), vec![blob], Some(program)).unwrap();
        let media_type = bench.image(program).manifest.layers()[0].media_type().to_string();
        assert!(media_type.ends_with(&format!("tar+{program}")), "{media_type}");
    }
    assert_eq!(bench.layers("gzip"), bench.layers("zstd"));
}

#[test]
fn garbage_is_what_no_image_has_and_nobody_is_adding() {
    let bench = Bench::new();
    let engine = bench.path("a/b/engine");
    bench.add(&[archive(FILES)], Some("pc")).unwrap();
    let upper = bench.change("pc", "echo 1 >new");
    let first = bench.image("pc").id;
    bench.save("pc", &upper);
    bench.store.gc().unwrap();
    let kept = bench.everything();
    bench.blob(b"not listed");
    fs::create_dir_all(engine.join("layers").join("f".repeat(64)).join("fs/dir")).unwrap();
    fs::create_dir_all(engine.join("tmp/killed/fs")).unwrap();
    fs::File::create(engine.join("tmp/too")).unwrap().write_all(b"killed").unwrap();
    {
        // Somebody is at work: nothing is touched, also by another process that begins.
        let _hold = bench.store.hold().unwrap();
        Store::open(&engine).unwrap();
        assert!(engine.join("tmp/killed").exists());
    }
    bench.store.gc().unwrap();
    assert_eq!(bench.everything(), kept);
    // The old version is of the last hour, and may be somebody's.
    assert!(bench.store.image(&first).is_ok());
    assert!(bench.store.remove_unnamed(&first).unwrap());
    assert!(bench.store.image(&first).unwrap_err().is_not_found());
    assert_eq!(bench.look("pc", "cat etc/one new"), "one\n1\n");
    bench.store.remove("pc").unwrap();
    assert!(fs::read_dir(engine.join("layers")).unwrap().next().is_none());
    assert!(fs::read_dir(engine.join("blobs/sha256")).unwrap().next().is_none());
}

#[test]
fn an_image_that_a_container_is_made_of_stays() {
    let bench = Bench::new();
    let id = bench.add(&[archive(FILES)], Some("pc")).unwrap();
    let container = bench.path("a/b/engine/containers/0123");
    fs::create_dir_all(&container).unwrap();
    fs::write(container.join("container.json"), json!({"image_id": &id}).to_string()).unwrap();
    bench.store.remove("pc").unwrap();
    assert!(bench.store.references().unwrap().is_empty());
    assert!(!bench.store.remove_unnamed(&id).unwrap());
    assert_eq!(bench.layers(&id).len(), 1);
    fs::remove_dir_all(&container).unwrap();
    assert!(bench.store.remove_unnamed(&id).unwrap());
}

#[test]
fn many_at_once_lose_nothing() {
    let bench = Arc::new(Bench::new());
    let layer = Arc::new(archive(FILES));
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let (bench, layer) = (Arc::clone(&bench), Arc::clone(&layer));
            std::thread::spawn(move || {
                // Another process, as far as locks are concerned.
                let store = Store::open(&bench.path("a/b/engine")).unwrap();
                for round in 0..4 {
                    let name = format!("user{number}/image{round}");
                    bench.add(&[layer.to_vec()], Some(&name)).unwrap();
                    let upper = bench.change(&name, &format!("echo {number} >new"));
                    bench.save(&name, &upper);
                    store.gc().unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(bench.store.references().unwrap().len(), 32);
    for number in 0..8 {
        assert_eq!(bench.look(&format!("user{number}/image3"), "cat new"), format!("{number}\n"));
    }
}
