//! The schema migrations: the files of `core/ledger/migrations`, embedded. (sqlx's own macro for this would have the
//! whole driver, SQLite included, compiled a second time: for the compiler.)

use sqlx::{
    SqlStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// Version and description, from the file's name, and its content.
type File = (i64, &'static str, &'static str);

/// Migrations of the embedded ledger.
pub(super) const SQLITE: [File; 8] = [
    (1, "ledger", include_str!("../migrations/sqlite/0001_ledger.sql")),
    (10, "accounts", include_str!("../migrations/sqlite/0010_accounts.sql")),
    (11, "late", include_str!("../migrations/sqlite/0011_late.sql")),
    (20, "events by tenant", include_str!("../migrations/sqlite/0020_events_by_tenant.sql")),
    (22, "submitted by", include_str!("../migrations/sqlite/0022_submitted_by.sql")),
    (23, "targets", include_str!("../migrations/sqlite/0023_targets.sql")),
    (24, "price", include_str!("../migrations/sqlite/0024_price.sql")),
    (25, "own gas", include_str!("../migrations/sqlite/0025_own_gas.sql")),
];

/// Migrations of the shared ledger.
#[cfg(feature = "postgres")]
pub(super) const POSTGRES: [File; 10] = [
    (1, "ledger", include_str!("../migrations/postgres/0001_ledger.sql")),
    (2, "members", include_str!("../migrations/postgres/0002_members.sql")),
    (10, "accounts", include_str!("../migrations/postgres/0010_accounts.sql")),
    (11, "late", include_str!("../migrations/postgres/0011_late.sql")),
    (20, "events by tenant", include_str!("../migrations/postgres/0020_events_by_tenant.sql")),
    (21, "spent totals", include_str!("../migrations/postgres/0021_spent_totals.sql")),
    (22, "submitted by", include_str!("../migrations/postgres/0022_submitted_by.sql")),
    (23, "targets", include_str!("../migrations/postgres/0023_targets.sql")),
    (24, "price", include_str!("../migrations/postgres/0024_price.sql")),
    (25, "own gas", include_str!("../migrations/postgres/0025_own_gas.sql")),
];

/// Migrator that applies `files`.
pub(super) fn migrator(files: &[File]) -> Migrator {
    let migration = |&(version, description, sql): &File| {
        Migration::new(version, description.into(), MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    Migrator::with_migrations(files.iter().map(migration).collect())
}

/// Schema version after all migrations.
pub(super) fn newest(files: &[File]) -> i64 {
    files.iter().map(|&(version, ..)| version).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Existing ledgers store version, description and checksum of each file: they must match sqlx's reading of the
    /// folder.
    async fn check(folder: &str, files: &[File]) {
        let told = |migrator: &Migrator| -> Vec<_> {
            let of = |one: &Migration| {
                (one.version, one.description.clone(), one.migration_type, one.checksum.clone(), one.no_tx)
            };
            migrator.iter().map(of).collect()
        };
        let read = Migrator::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder)).await.unwrap();
        assert_eq!(told(&migrator(files)), told(&read));
    }

    #[tokio::test]
    async fn every_file_is_embedded_as_it_is_named() {
        check("sqlite", &SQLITE).await;
        #[cfg(feature = "postgres")]
        check("postgres", &POSTGRES).await;
    }
}
