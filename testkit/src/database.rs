//! A private Postgres database.

use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use reqwest::Url;

use crate::{PostgresServer, cleanup, environment};

/// Postgres truncates longer names silently.
const NAME_BYTES_MAX: usize = 63;

/// An empty database of the test run's Postgres, or of a [`PostgresServer`]; dropped, connections or not, with this value.
#[derive(Debug)]
pub struct Database {
    name: String,
    server: Url,
}

impl Database {
    /// Creates an empty database; `hint` (letters, digits, `_`) becomes a part of its name.
    ///
    /// # Panics
    /// If Postgres refuses, or outside `./dev test`.
    pub async fn create(hint: &str) -> Self {
        Self::create_at(environment::postgres_url(), hint).await
    }

    /// As [`Database::create`], on a server of the test's own.
    ///
    /// # Panics
    /// If Postgres refuses.
    pub async fn create_on(server: &PostgresServer, hint: &str) -> Self {
        Self::create_at(server.server_url(), hint).await
    }

    async fn create_at(server: Url, hint: &str) -> Self {
        let hint: String = hint.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(24).collect();
        let name = format!("t_{}_{}", hint.to_ascii_lowercase(), uuid::Uuid::new_v4().simple());
        assert!(name.len() <= NAME_BYTES_MAX, "{name} is too long for Postgres");

        let database = Self { name, server };
        database
            .administer(&format!("CREATE DATABASE {}", database.name))
            .await
            .expect("the database is created");
        database
    }

    /// `postgres://user:password@host:port/<name>`
    pub fn url(&self) -> String {
        let mut url = self.server.clone();
        url.set_path(&self.name);
        url.into()
    }

    /// Ends every connection to this database, as a crash of the server would.
    ///
    /// # Panics
    /// If Postgres refuses.
    pub async fn close_all_connections(&self) {
        self.administer(&self.terminate()).await.expect("connections can be ended");
    }

    /// Makes the database unreachable: ends every connection and refuses new ones until [`Database::unblock`].
    ///
    /// # Panics
    /// If Postgres refuses.
    pub async fn block(&self) {
        let refuse = format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false", self.name);
        self.administer(&refuse).await.expect("the database can be blocked");
        self.close_all_connections().await;
    }

    /// Lets connections in again.
    ///
    /// # Panics
    /// If Postgres refuses.
    pub async fn unblock(&self) {
        let allow = format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true", self.name);
        self.administer(&allow).await.expect("the database can be unblocked");
    }

    /// Makes every transaction from now on read-only, or ends that; connections are ended to make it so at once.
    ///
    /// # Panics
    /// If Postgres refuses.
    pub async fn set_read_only(&self, read_only: bool) {
        let set = format!("ALTER DATABASE {} SET default_transaction_read_only = {read_only}", self.name);
        self.administer(&set).await.expect("the database can be made read-only");
        self.close_all_connections().await;
    }

    fn terminate(&self) -> String {
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'", self.name)
    }

    async fn administer(&self, statement: &str) -> anyhow::Result<()> {
        let mut connection = AsyncPgConnection::establish(self.server.as_str()).await?;
        diesel::sql_query(statement).execute(&mut connection).await?;
        Ok(())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        cleanup::block_on("dropping a database", self.administer(&statement));
    }
}
