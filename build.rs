//! Finds the C library that filters of system calls are made with, and has it linked statically
//! where it can be: the program then runs on machines without it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs, io};

/// Read by libseccomp-sys, too.
const PLACE: &str = "LIBSECCOMP_LIB_PATH";
const STATIC: &str = "libseccomp.a";
const SHARED: &str = "libseccomp.so";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={PLACE}");
    let is_wanted = env::var_os("CARGO_FEATURE_SECCOMP").is_some();
    // Another machine's libraries are where only the caller knows.
    if !is_wanted || env::var_os(PLACE).is_some() || env::var_os("TARGET") != env::var_os("HOST") {
        return ExitCode::SUCCESS;
    }
    match find(STATIC) {
        Some(library) => match link_statically(&library) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("cargo::error={} cannot be linked: {error}", library.display());
                ExitCode::FAILURE
            }
        },
        None if find(SHARED).is_some() => ExitCode::SUCCESS,
        None => {
            println!(
                "cargo::error=the C library libseccomp is missing: install it \
                 (apt-get install libseccomp-dev), or build without filters of system calls \
                 (--no-default-features)"
            );
            ExitCode::FAILURE
        }
    }
}

/// The linker takes the first library of that name, and a directory of our own comes before those
/// of the system, where the shared one is beside it.
fn link_statically(library: &Path) -> io::Result<()> {
    let Some(out) = env::var_os("OUT_DIR").map(PathBuf::from) else {
        return Err(io::Error::other("OUT_DIR is not set"));
    };
    let copy = out.join(STATIC);
    fs::copy(library, copy)?;
    println!("cargo::rerun-if-changed={}", library.display());
    println!("cargo::rustc-link-search=native={}", out.display());
    Ok(())
}

/// Where the C compiler, which links the program, finds a library.
fn find(name: &str) -> Option<PathBuf> {
    let output = Command::new("cc").arg(format!("-print-file-name={name}")).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    // It gives the bare name back when there is none.
    (path.is_absolute() && path.is_file()).then_some(path)
}
