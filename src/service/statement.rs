//! Parts of statements. Those for many rows keep the number of different statements small, because each is prepared on
//! each connection.

use orm_pool::Engine;
use sea_orm::{
    ColumnTrait, DbBackend, Value,
    sea_query::{Expr, Func, FunctionCall, ValueType, postgres_array::NotU8},
};

/// Returns a condition that a column has one of these values.
pub(super) fn is_one_of<V>(backend: DbBackend, column: impl ColumnTrait, values: &[V]) -> Expr
where
    V: Into<Value> + Clone + NotU8,
{
    match (backend, values) {
        (_, [value]) => column.eq(value.clone()),
        (DbBackend::Postgres, values) => column.eq_any(values.iter().cloned()),
        (_, values) => {
            // Padded to the next power of two with the last value.
            let last = values.last().into_iter().cycle();
            column.is_in(values.iter().chain(last).take(values.len().next_power_of_two()).cloned())
        }
    }
}

/// Returns any number of values as the rows of one column, in a single array parameter (PostgreSQL).
pub(super) fn unnest<V: Into<Value> + ValueType>(values: impl Iterator<Item = V>) -> FunctionCall {
    let values = values.map(Into::into).collect();
    Func::cust("unnest").arg(Expr::val(Value::Array(V::array_type(), Some(Box::new(values)))))
}

/// Maximum number of rows per statement, as an exponent of two: SQLite accepts 32,766 parameters, and a row has nine.
const MAX_CHUNK_LOG2: u32 = 10;

/// Splits a slice into chunks whose lengths are powers of two, so that there are few different statements to prepare.
pub(super) fn power_of_two_chunks<T>(mut rest: &[T]) -> Vec<&[T]> {
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let (chunk, remaining) = rest.split_at(1 << rest.len().ilog2().min(MAX_CHUNK_LOG2));
        chunks.push(chunk);
        rest = remaining;
    }
    chunks
}

/// Returns the expression of the database's time, in milliseconds since 1970: the clocks of processes differ.
pub(super) const fn now_ms(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
        Engine::Postgres => "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
        Engine::MySql => "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)",
    }
}

/// Returns the placeholder of the only parameter of a statement.
pub(super) const fn placeholder(engine: Engine) -> &'static str {
    match engine {
        Engine::Postgres => "$1",
        Engine::Sqlite | Engine::MySql => "?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_exactly_one_chunk() {
        for length in (0..70).chain([1024, 5000, 10_000]) {
            let rows: Vec<usize> = (0..length).collect();
            let chunks = power_of_two_chunks(&rows);
            assert!(chunks.iter().all(|chunk| chunk.len().is_power_of_two() && chunk.len() <= 1024), "{chunks:?}");
            assert_eq!(chunks.concat(), rows);
        }
    }
}
