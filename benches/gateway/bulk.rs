//! Bytes through one session, each way, per cipher.

use std::fs::File;

use crate::Effort;
use crate::routes::{Bed, Route, cpu_seconds, medians, seconds};
use crate::table::{Table, Values, median};

/// The ciphers compared. The gateway's own connection to the node uses its first choice.
pub(crate) const CIPHERS: [&str; 3] =
    ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"];

pub(crate) fn measure(bed: &Bed, effort: &Effort, table: &mut Table) {
    let bytes = effort.bulk_bytes;
    let megabytes = bytes as f64 / 1e6;
    // Reading a file of nothing but a hole costs the client next to nothing.
    let source = bed.directory("bulk").join("source");
    File::create(&source).unwrap().set_len(bytes).unwrap();
    let download = format!("head -c {bytes} /dev/zero");
    for cipher in CIPHERS {
        let short = cipher.trim_end_matches("@openssh.com");
        for way in ["down", "up"] {
            let mut cpu = Vec::new();
            let speeds = medians(effort.rounds, |route| {
                let before = cpu_seconds(bed.gateway.pid());
                let took = if way == "down" {
                    seconds(&mut bed.ssh_with(cipher, route, &[], &[&download]))
                } else {
                    let mut upload = bed.ssh_with(cipher, route, &[], &["cat >/dev/null"]);
                    seconds(upload.stdin(File::open(&source).unwrap()))
                };
                if route == Route::Gateway {
                    cpu.push((cpu_seconds(bed.gateway.pid()) - before) / (megabytes / 1000.0));
                }
                megabytes / took
            });
            table.add(format!("bulk {way}, {short}"), "MB/s", speeds);
            let gateway = Some(median(&cpu));
            table.add(
                format!("CPU of the gateway, {way}, {short}"),
                "s/GB",
                Values { gateway, ..Values::default() },
            );
        }
    }
}
