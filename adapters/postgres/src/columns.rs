//! Turns batches into columns for `UNNEST`.

/// Returns one column of a batch.
pub fn each<'a, R, T>(rows: &'a [R], of: impl FnMut(&'a R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

/// Converts to a signed integer for Postgres. No saga reaches two thousand million revisions or versions.
pub fn int(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// Converts a slot to its column type.
pub fn small(slot: u16) -> i16 {
    i16::try_from(slot).unwrap_or(i16::MAX)
}
