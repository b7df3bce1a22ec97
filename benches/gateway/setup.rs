//! `ssh NODE true`, from its start to its end.

use crate::Effort;
use crate::routes::{Bed, medians, seconds};
use crate::table::Table;

pub(crate) fn measure(bed: &Bed, effort: &Effort, table: &mut Table) {
    let times =
        medians(effort.rounds * 6, |route| seconds(&mut bed.ssh(route, &[], &["true"])) * 1000.0);
    table.add("`ssh NODE true`", "ms", times);
}
