//! The rows of every engine's table, the same for all.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::Result;

/// The script of pgbench, which computes the id of a random row like [`id`]. Its `hash_murmur2` is our [`murmur`].
pub fn pgbench_script(rows: u64) -> String {
    format!(
        "\\set n random(1, {rows})\n\
         \\set high (hash_murmur2(:n, 1) & -61441) | 16384\n\
         \\set low (hash_murmur2(:n, 2) & 4611686018427387903) - 9223372036854775807 - 1\n\
         SELECT * FROM users WHERE id = (lpad(to_hex(:high::bigint), 16, '0') || to_hex(:low::bigint))::uuid;\n"
    )
}

/// The id of the n-th row: a version 4 UUID that is spread like a random one but can be computed.
pub fn id(n: u64) -> String {
    let high = murmur(n, 1) & !0xf000 | 0x4000;
    let low = murmur(n, 2) & (u64::MAX >> 2) | 1 << 63;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// The email of the n-th row, which is also its key.
pub fn email(n: u64) -> String {
    format!("user{n}@example.com")
}

/// MurmurHash2 (64A) of one number.
fn murmur(value: u64, seed: u64) -> u64 {
    const MULTIPLY: u64 = 0xc6a4_a793_5bd1_e995;
    let mut mixed = value.wrapping_mul(MULTIPLY);
    mixed ^= mixed >> 47;
    let mut hash = (seed ^ MULTIPLY.wrapping_mul(8) ^ mixed.wrapping_mul(MULTIPLY)).wrapping_mul(MULTIPLY);
    hash ^= hash >> 47;
    hash = hash.wrapping_mul(MULTIPLY);
    hash ^ hash >> 47
}

/// The timestamp of the n-th row, in microseconds; each row is one millisecond later than the previous one.
fn timestamp(n: u64) -> String {
    let (seconds, millis) = (n / 1000, n % 1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("2026-01-01 {hours:02}:{minutes:02}:{seconds:02}.{millis:03}123")
}

/// Writes the rows as CSV: id, name and its two keys, email and its key, version, and the two timestamps in UTC.
pub fn write(path: &Path, rows: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for n in 1..=rows {
        let (id, email, time) = (id(n), email(n), timestamp(n));
        writeln!(file, "{id},User {n},user {n},{n} user,{email},{email},1,{time},{time}")?;
    }
    file.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_that_pgbench_computes() {
        // The results of the same expressions in pgbench 15.
        assert_eq!(murmur(1, 1).cast_signed(), 5_833_352_340_892_006_082);
        assert_eq!(murmur(100_000, 2).cast_signed(), 183_567_086_285_995_564);
        assert_eq!(id(7), "b42a9e1f-5e24-4c7c-b52f-e9cc6c63bdc9");
    }

    #[test]
    fn each_row_is_one_millisecond_later() {
        assert_eq!(timestamp(0), "2026-01-01 00:00:00.000123");
        assert_eq!(timestamp(3_661_001), "2026-01-01 01:01:01.001123");
    }
}
