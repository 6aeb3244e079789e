//! The history of the tables: the files of `core/migrations`, embedded. (sqlx's own macro for this would have the whole
//! driver, SQLite included, compiled a second time: for the compiler.)

use sqlx::{
    SqlStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// Version, description and text: what the name of a file says, and what it holds.
type File = (i64, &'static str, &'static str);

/// Of the embedded ledger.
pub(super) const SQLITE: [File; 8] = [
    (1, "ledger", include_str!("../../migrations/sqlite/0001_ledger.sql")),
    (10, "accounts", include_str!("../../migrations/sqlite/0010_accounts.sql")),
    (11, "late", include_str!("../../migrations/sqlite/0011_late.sql")),
    (20, "events by tenant", include_str!("../../migrations/sqlite/0020_events_by_tenant.sql")),
    (22, "submitted by", include_str!("../../migrations/sqlite/0022_submitted_by.sql")),
    (23, "targets", include_str!("../../migrations/sqlite/0023_targets.sql")),
    (24, "price", include_str!("../../migrations/sqlite/0024_price.sql")),
    (25, "own gas", include_str!("../../migrations/sqlite/0025_own_gas.sql")),
];

/// Of the shared ledger.
#[cfg(feature = "postgres")]
pub(super) const POSTGRES: [File; 10] = [
    (1, "ledger", include_str!("../../migrations/postgres/0001_ledger.sql")),
    (2, "members", include_str!("../../migrations/postgres/0002_members.sql")),
    (10, "accounts", include_str!("../../migrations/postgres/0010_accounts.sql")),
    (11, "late", include_str!("../../migrations/postgres/0011_late.sql")),
    (20, "events by tenant", include_str!("../../migrations/postgres/0020_events_by_tenant.sql")),
    (21, "spent totals", include_str!("../../migrations/postgres/0021_spent_totals.sql")),
    (22, "submitted by", include_str!("../../migrations/postgres/0022_submitted_by.sql")),
    (23, "targets", include_str!("../../migrations/postgres/0023_targets.sql")),
    (24, "price", include_str!("../../migrations/postgres/0024_price.sql")),
    (25, "own gas", include_str!("../../migrations/postgres/0025_own_gas.sql")),
];

/// What brings tables up to date by `files`.
pub(super) fn migrator(files: &[File]) -> Migrator {
    let migration = |&(version, description, sql): &File| {
        Migration::new(version, description.into(), MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    Migrator::with_migrations(files.iter().map(migration).collect())
}

/// The version that tables have once they are up to date.
pub(super) fn newest(files: &[File]) -> i64 {
    files.iter().map(|&(version, ..)| version).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Ledgers in use remember version, description and checksum of each file: they must be what sqlx reads from the folder.
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
