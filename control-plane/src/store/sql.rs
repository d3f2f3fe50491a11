//! Statements whose text depends on what is asked.
//!
//! sqlx's own builder writes `?` for the `Any` driver, which Postgres does not read; both
//! databases read `$1`.

use sqlx::any::{AnyArguments, AnyRow};
use sqlx::{AnyConnection, AnyPool, Arguments as _, AssertSqlSafe};

use super::{Error, failed};

/// A statement being put together. Text comes from the program, values are bound.
#[derive(Default)]
pub(crate) struct Sql {
    text: String,
    values: AnyArguments,
    bound: usize,
}

// === impl Sql ===

impl Sql {
    /// A statement that begins so.
    pub(crate) fn new(text: &'static str) -> Self {
        Self {
            text: text.to_owned(),
            ..Self::default()
        }
    }

    /// Adds text of the program's own.
    pub(crate) fn push(&mut self, text: &'static str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Adds a value.
    pub(crate) fn bind<'q, T>(&mut self, value: T) -> Result<&mut Self, Error>
    where
        T: 'q + sqlx::Encode<'q, sqlx::Any> + sqlx::Type<sqlx::Any>,
    {
        self.values.add(value).map_err(|source| Error::Query {
            operation: "bind a value",
            source: sqlx::Error::Encode(source),
        })?;
        self.bound += 1;
        self.text.push_str(&format!("${}", self.bound));
        Ok(self)
    }

    /// Adds values with commas between them.
    pub(crate) fn bind_all(
        &mut self,
        values: impl IntoIterator<Item = String>,
    ) -> Result<&mut Self, Error> {
        for (number, value) in values.into_iter().enumerate() {
            if number > 0 {
                self.push(", ");
            }
            self.bind(value)?;
        }
        Ok(self)
    }

    /// Runs a statement that answers nothing.
    pub(crate) async fn execute(
        self,
        connection: &mut AnyConnection,
        operation: &'static str,
    ) -> Result<(), Error> {
        // Safe: all of the text is the program's own, see `push`.
        sqlx::query_with(AssertSqlSafe(self.text), self.values)
            .execute(connection)
            .await
            .map(drop)
            .map_err(failed(operation))
    }

    /// Runs a statement that answers one row at most, on a connection of the caller's.
    pub(crate) async fn fetch_optional(
        self,
        connection: &mut AnyConnection,
        operation: &'static str,
    ) -> Result<Option<AnyRow>, Error> {
        // Safe: all of the text is the program's own, see `push`.
        sqlx::query_with(AssertSqlSafe(self.text), self.values)
            .fetch_optional(connection)
            .await
            .map_err(failed(operation))
    }

    /// Runs a statement that answers rows, inside a transaction.
    pub(crate) async fn fetch_all_on(
        self,
        connection: &mut AnyConnection,
        operation: &'static str,
    ) -> Result<Vec<AnyRow>, Error> {
        // Safe: all of the text is the program's own, see `push`.
        sqlx::query_with(AssertSqlSafe(self.text), self.values)
            .fetch_all(connection)
            .await
            .map_err(failed(operation))
    }

    /// Runs a statement that answers rows.
    pub(crate) async fn fetch_all(
        self,
        pool: &AnyPool,
        operation: &'static str,
    ) -> Result<Vec<AnyRow>, Error> {
        // Safe: all of the text is the program's own, see `push`.
        sqlx::query_with(AssertSqlSafe(self.text), self.values)
            .fetch_all(pool)
            .await
            .map_err(failed(operation))
    }
}
