//! A batch as columns: what `UNNEST` takes.

/// One column of a batch.
pub fn each<'a, R, T>(rows: &'a [R], of: impl FnMut(&'a R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

/// As Postgres counts. Two thousand million revisions or versions are beyond any saga.
pub fn int(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// A slot as Postgres stores it.
pub fn small(slot: u16) -> i16 {
    i16::try_from(slot).unwrap_or(i16::MAX)
}
