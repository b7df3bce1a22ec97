//! `waltgate image`, with archives of real programs.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const WALTGATE: &str = env!("CARGO_BIN_EXE_waltgate");

struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bench = Self { directory };
        fs::write(
            bench.path("waltgate.toml"),
            format!("[server]\nstate_dir = {:?}\n", bench.path("state")),
        )
        .unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(WALTGATE);
        command.arg("image").arg("-c").arg(self.path("waltgate.toml")).args(arguments);
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The one line of a command that must fail.
    #[track_caller]
    fn fail(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(output.stdout.is_empty());
        said
    }

    /// Runs a script in the bench's directory.
    #[track_caller]
    fn script(&self, text: &str) -> String {
        let mut sh = Command::new("sh");
        let output = sh.args(["-ec", text]).current_dir(self.directory.path()).output().unwrap();
        assert!(output.status.success(), "{text}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes `tree.tar`, a small file system.
    fn tree(&self) {
        self.script(
            "mkdir -p tree/bin tree/etc; cp /bin/busybox tree/bin/sh; echo pc >tree/etc/hostname; \
             chmod 4755 tree/bin/sh; tar -C tree -cf tree.tar .",
        );
    }

    fn list(&self) -> Vec<(String, String)> {
        let listed = self.succeed(&["list"]);
        let rows = listed.lines().skip(1).map(|line| {
            let mut words = line.split_whitespace();
            (words.next().unwrap().to_owned(), words.next().unwrap().to_owned())
        });
        rows.collect()
    }

    /// Everything that is kept, unless it is a lock.
    fn kept(&self) -> Vec<String> {
        let find = "cd state/engine; find . -name '*.lock' -o -print | sort";
        self.script(find).lines().map(str::to_owned).collect()
    }
}

/// The identifier that an import tells.
fn id(said: &str) -> String {
    said.trim().rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn a_tree_is_imported_listed_exported_and_removed() {
    let bench = Bench::new();
    bench.tree();
    assert_eq!(bench.list(), []);
    let first = id(&bench.succeed(&["import", "tree.tar", "alice/pc"]));
    assert_eq!(first.len(), 64);
    assert_eq!(bench.list(), [("alice/pc:latest".to_owned(), first[..12].to_owned())]);
    bench.succeed(&["export", "alice/pc", "pc.tar"]);
    // What comes out goes in again as the same image.
    assert_eq!(id(&bench.succeed(&["import", "pc.tar", "copy:v2"])), first);
    assert_eq!(bench.list().len(), 2);
    assert!(bench.list().contains(&("copy:v2".to_owned(), first[..12].to_owned())));
    bench.succeed(&["remove", "alice/pc"]);
    bench.succeed(&["export", "copy:v2", "again.tar"]);
    bench.succeed(&["remove", "copy:v2"]);
    assert_eq!(bench.list(), []);
    assert!(
        bench.script("ls state/engine/layers state/engine/blobs/sha256").split_whitespace().count()
            == 2
    );
    // Also the plain layer is what it was.
    let layer = bench.script("tar -tf pc.tar | grep blobs/sha256/.");
    let hashes = bench.script("sha256sum tree.tar | cut -d' ' -f1");
    assert!(layer.contains(hashes.trim()), "{layer}");
}

#[test]
fn archives_are_known_by_what_is_in_them() {
    let bench = Bench::new();
    bench.tree();
    bench.succeed(&["import", "tree.tar", "pc"]);
    let same = |name: &str| {
        bench.list().into_iter().find(|(listed, _)| listed == &format!("{name}:latest")).unwrap().1
    };
    bench.succeed(&["export", "pc", "pc.tar"]);
    // As an OCI archive only, in another order, compressed, and through a pipe.
    bench.script(
        "mkdir oci docker; tar -C oci -xf pc.tar; rm oci/manifest.json; \
         tar -C oci -cf oci.tar blobs oci-layout index.json; gzip -k oci.tar; zstd -q pc.tar; \
         tar -C docker -xf pc.tar manifest.json blobs; tar -C docker -cf docker.tar blobs manifest.json; \
         mv oci.tar.gz misnamed.txt; gzip -k tree.tar",
    );
    for (number, file) in ["oci.tar", "misnamed.txt", "pc.tar.zst", "docker.tar"].iter().enumerate()
    {
        let name = format!("again{number}");
        bench.succeed(&["import", file, &name]);
        assert_eq!(same(&name), same("pc"), "{file}");
    }
    let piped = Command::new("sh")
        .args(["-c", "cat pc.tar.zst | \"$0\" image -c waltgate.toml import - piped", WALTGATE])
        .current_dir(bench.directory.path())
        .output()
        .unwrap();
    assert!(piped.status.success(), "{piped:?}");
    assert_eq!(same("piped"), same("pc"));
    bench.succeed(&["import", "tree.tar.gz", "gz"]);
    let listed = bench.script("ls state/engine/layers | wc -l");
    assert_eq!(listed.trim(), "1", "one layer, however it was compressed");
    // `docker save` of old: layers in directories of their own, one a link to another.
    bench.script(
        "mkdir -p old/a old/b; cp tree.tar old/a/layer.tar; ln -s ../a/layer.tar old/b/layer.tar; \
         sum=sha256:$(sha256sum tree.tar | cut -d' ' -f1); \
         printf '{\"architecture\":\"arm64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"%s\",\"%s\"]}}' $sum $sum >old/c.json; \
         printf '[{\"Config\":\"c.json\",\"RepoTags\":null,\"Layers\":[\"b/layer.tar\",\"a/layer.tar\"]}]' >old/manifest.json; \
         tar -C old -cf old.tar manifest.json b a c.json",
    );
    bench.succeed(&["import", "old.tar", "old"]);
    bench.succeed(&["export", "old", "old2.tar"]);
}

#[test]
fn a_failed_import_leaves_everything_as_it_was() {
    let bench = Bench::new();
    bench.tree();
    bench.succeed(&["import", "tree.tar", "pc"]);
    bench.succeed(&["export", "pc", "pc.tar"]);
    let before = (bench.kept(), bench.list());
    bench.script(
        "head -c 3000 pc.tar >cut.tar; gzip -c tree.tar | head -c 2000 >cut.gz; zstd -qc tree.tar | head -c 2000 >cut.zst; \
         echo text >text; : >empty; tar -cf nothing.tar -T /dev/null; head -c 100000 /dev/urandom >noise; \
         mkdir bad; tar -C bad -xf pc.tar; layer=$(ls -S bad/blobs/sha256 | head -1); \
         printf x | dd of=bad/blobs/sha256/$layer bs=1 seek=600000 conv=notrunc status=none; \
         tar -C bad -cf damaged.tar .; rm bad/manifest.json; tar -C bad -cf damaged-oci.tar .; \
         rm bad/blobs/sha256/$layer; tar -C bad -cf missing.tar .; \
         echo '[{},{}]' >manifest.json; tar -cf wrong.tar manifest.json; \
         printf '[{\"Config\":\"c\",\"RepoTags\":[\"one:1\"],\"Layers\":[]},{\"Config\":\"c\",\"RepoTags\":[\"two:2\"],\"Layers\":[]}]' >manifest.json; \
         tar -cf two.tar manifest.json; \
         mkdir up; tar -C up -cf climbing.tar --transform 's,^x,../../x,' -P --files-from /dev/null; \
         touch x; tar -P -cf climbing.tar --transform 's,^x,../../x,' x",
    );
    for (file, words) in [
        ("cut.tar", "the archive: "),
        ("cut.gz", "the archive: "),
        ("cut.zst", "the archive: "),
        ("text", "the archive: "),
        ("empty", "there are no files in it"),
        ("nothing.tar", "there are no files in it"),
        ("noise", "the archive: not a tar archive"),
        ("damaged.tar", "damaged"),
        ("damaged-oci.tar", "damaged"),
        ("missing.tar", "is missing from it"),
        ("wrong.tar", "manifest.json of the archive"),
        ("two.tar", "there are 2 images in it (one:1, two:2)"),
        ("climbing.tar", "leads out of the layer"),
        ("absent.tar", "cannot open absent.tar: No such file"),
        (".", "Is a directory"),
    ] {
        let said = bench.fail(&["import", file, "pc"]);
        assert!(said.contains(words) && said.contains(file), "{file}: {said}");
        assert_eq!((bench.kept(), bench.list()), before, "{file}");
    }
    for name in ["", "UPPER/case", "a//b", "pc@sha256:0000", "../pc"] {
        let said = bench.fail(&["import", "tree.tar", name]);
        assert!(said.contains("reference") || said.contains("name"), "{said}");
    }
    for arguments in
        [&["export", "absent", "x.tar"][..], &["remove", "absent"], &["export", "absent", "-"]]
    {
        let said = bench.fail(arguments);
        assert!(said.contains("image absent: not found; `waltgate image list`"), "{said}");
    }
    assert!(!bench.path("x.tar").exists());
    let said = bench.fail(&["export", "pc", "/nonexistent/x.tar"]);
    assert!(said.contains("cannot write into /nonexistent"), "{said}");
    assert_eq!((bench.kept(), bench.list()), before);
}

#[test]
fn a_full_disk_leaves_the_store_as_it_was() {
    let bench = Bench::new();
    bench.tree();
    bench.script("head -c 9000000 /dev/urandom >tree/noise; tar -C tree -cf large.tar .");
    let script = format!(
        "set -e; mkdir state; mount -t tmpfs -o size=16m tmpfs state; \
         \"{WALTGATE}\" image -c waltgate.toml import tree.tar pc; \
         find state/engine -name '*.lock' -o -print | sort >before; \
         if \"{WALTGATE}\" image -c waltgate.toml import large.tar pc 2>error; then exit 9; fi; \
         find state/engine -name '*.lock' -o -print | sort >after; cmp before after; \
         \"{WALTGATE}\" image -c waltgate.toml export pc pc.tar; cat error"
    );
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .current_dir(bench.directory.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("No space left on device"), "{said}");
}

/// Takes an image that a real engine saved, and gives one back. `engine` is "docker" or "podman".
fn exchange(socket: Option<&Path>, name: &str) {
    let bench = Bench::new();
    bench.tree();
    let docker = |arguments: &str| {
        let host = socket.map_or(String::new(), |socket| format!("-H unix://{}", socket.display()));
        bench.script(&format!("docker {host} {arguments}"))
    };
    docker(&format!("import -c 'ENV COLOUR=blue' tree.tar {name} >/dev/null"));
    docker(&format!("save -o saved.tar {name}"));
    bench.succeed(&["import", "saved.tar", name]);
    bench.succeed(&["export", name, "back.tar"]);
    docker(&format!("rmi {name} >/dev/null"));
    docker("load -i back.tar >/dev/null");
    let env = docker(&format!("inspect -f '{{{{.Config.Env}}}}' {name}"));
    assert!(env.contains("COLOUR=blue"), "{env}");
    // As this store names it, whose identifiers are those of Docker.
    let theirs = docker(&format!("inspect -f '{{{{.Id}}}}' {name}"));
    let ours = &bench.list()[0].1;
    assert!(theirs.contains(ours.as_str()), "{theirs} {ours}");
    docker(&format!("rmi {name} >/dev/null"));
}

#[test]
fn images_go_to_docker_and_back() {
    let socket = std::env::var_os("WALTGATE_TEST_DOCKER").map(PathBuf::from);
    exchange(socket.as_deref(), &format!("waltgate-exchange-{}", std::process::id()));
}

/// What podman wrote, in both of its formats, and what it says of what it gets back. It needs no
/// service for that, only a place of its own.
#[test]
fn images_go_to_podman_and_back() {
    let bench = Bench::new();
    bench.tree();
    bench.script("mkdir podman");
    let podman = |arguments: &str| {
        bench.script(&format!(
            "podman --root podman/root --runroot podman/run --storage-driver vfs \
             --cgroup-manager cgroupfs --events-backend file {arguments}"
        ))
    };
    podman("import -q -c 'ENV COLOUR=blue' tree.tar alice/pc:v1 >&2");
    let theirs = podman("image inspect -f '{{.Id}}' alice/pc:v1");
    podman("save -q -o docker.tar alice/pc:v1");
    podman("save -q --format oci-archive -o oci.tar alice/pc:v1");
    for (file, name) in [("docker.tar", "docker"), ("oci.tar", "oci")] {
        let ours = id(&bench.succeed(&["import", file, name]));
        assert_eq!(ours, theirs.trim(), "{file}");
    }
    bench.succeed(&["export", "oci", "back.tar"]);
    podman("rmi -f alice/pc:v1 >&2");
    let loaded = podman("load -q -i back.tar");
    let name = loaded.trim().rsplit(' ').next().unwrap();
    assert_eq!(podman(&format!("image inspect -f '{{{{.Id}}}}' {name}")), theirs);
    let env = podman(&format!("image inspect -f '{{{{.Config.Env}}}}' {name}"));
    assert!(env.contains("COLOUR=blue"), "{env}");
}
