//! The last steps of a new process: it gives up what programs may not do, and becomes its program.

use std::os::unix::process::CommandExt;
use std::process::Command;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::default::get_executor;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::system_calls;

/// Runs a program that dies with its supervisor.
#[derive(Debug, Clone, Copy)]
pub(super) struct DiesWithItsSupervisor;

impl Executor for DiesWithItsSupervisor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let argv = spec
            .process()
            .as_ref()
            .and_then(|process| process.args().as_ref())
            .ok_or(ExecutorError::InvalidArg)?;
        let (program, arguments) = argv.split_first().ok_or(ExecutorError::InvalidArg)?;
        set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|error| ExecutorError::Other(format!("PR_SET_PDEATHSIG: {error}")))?;
        // Unlike execvp(3) alone this gives the program the default for SIGPIPE, which Rust
        // programs ignore.
        let error = Command::new(program).args(arguments).exec();
        Err(ExecutorError::Other(format!("{program}: {error}")))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        get_executor().validate(spec)?;
        // The last step whose failure anybody is told of. libcontainer itself has filters for
        // process 1 only.
        system_calls::confine().map_err(|error| {
            ExecutorValidationError::ArgValidationError(format!(
                "the filter of system calls cannot be set up: {error}"
            ))
        })
    }
}
