//! `ssh NODE true`, from its start to its end.

use crate::Effort;
use crate::routes::{Bed, Route, WITHOUT_SPARE, medians, seconds};
use crate::table::Table;

/// Logins in a row without a pause, so that each finds the last one's spare still being made.
const IN_A_ROW: u8 = 5;

pub(crate) fn measure(bed: &Bed, effort: &Effort, table: &mut Table) {
    let milliseconds =
        |route, options: &[&str]| seconds(&mut bed.ssh(route, options, &["true"])) * 1000.0;
    let rounds = effort.rounds * 6;

    let times = medians(rounds, |route| milliseconds(route, &[]));
    table.add("`ssh NODE true`", "ms", times);

    let times = medians(effort.rounds * 2, |route| {
        (0..IN_A_ROW).map(|_| milliseconds(route, &[])).sum::<f64>() / f64::from(IN_A_ROW)
    });
    table.add("the same, five in a row, each", "ms", times);

    let times = medians(rounds, |route| match route {
        Route::Gateway => milliseconds(route, &["-l", WITHOUT_SPARE]),
        Route::Direct | Route::Jump => milliseconds(route, &[]),
    });
    table.add("`ssh NODE true`, `spare_connections = false`", "ms", times);
}
