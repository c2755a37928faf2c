//! A private Postgres database.

use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use reqwest::Url;

use crate::{PostgresServer, cleanup, environment};

/// Postgres truncates longer names silently.
const NAME_BYTES_MAX: usize = 63;

/// An empty database of the test run's Postgres, or of a [`PostgresServer`]; dropped, connections or not, with this value.
#[derive(Debug)]
pub struct Database {
    name: String,
    server: Url,
    /// Whether there is a role that may read and write rows and nothing else.
    has_role: bool,
}

/// What deploy/stores/postgres.sql does for a database, for one that a test has.
const RUNTIME_ROLE: &str = "
    CREATE ROLE {role} LOGIN PASSWORD '{role}';
    REVOKE ALL ON DATABASE {database} FROM PUBLIC;
    GRANT CONNECT ON DATABASE {database} TO {role};
    REVOKE ALL ON SCHEMA public FROM PUBLIC;
    GRANT USAGE ON SCHEMA public TO {role};
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO {role};
";

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

        let database = Self { name, server, has_role: false };
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

    /// As [`Database::create`], with a role beside that may read and write rows and nothing else, as services have it.
    ///
    /// # Panics
    /// If Postgres refuses, or outside `./dev test`.
    pub async fn create_with_role(hint: &str) -> Self {
        let mut database = Self::create(hint).await;
        let statements =
            RUNTIME_ROLE.replace("{role}", &database.role()).replace("{database}", &database.name);
        let url = database.url();
        let mut connection = AsyncPgConnection::establish(&url).await.expect("the database can be entered");
        connection.batch_execute(&statements).await.expect("the role is created");
        database.has_role = true;
        database
    }

    /// The address with the role of [`Database::create_with_role`].
    ///
    /// # Panics
    /// Never: a Postgres address has room for a user.
    pub fn role_url(&self) -> String {
        let mut url = self.server.clone();
        url.set_path(&self.name);
        url.set_username(&self.role()).expect("a postgres URL has room for a user");
        url.set_password(Some(&self.role())).expect("a postgres URL has room for a password");
        url.into()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn role(&self) -> String {
        // The random part alone: names are short.
        format!("r_{}", self.name.rsplit('_').next().unwrap_or_default())
    }

    /// Adds a second login with the rights of the first, as when its password is changed; its address.
    ///
    /// # Panics
    /// If Postgres refuses.
    pub async fn add_next_role(&self) -> String {
        let (role, next) = (self.role(), self.next_role());
        let create = format!("CREATE ROLE {next} LOGIN PASSWORD '{next}' IN ROLE {role}");
        self.administer(&create).await.expect("the role is created");
        self.role_url().replace(&role, &next)
    }

    /// Lets nobody log in by the first role any more, and ends its connections; says how many there were.
    ///
    /// # Panics
    /// If Postgres refuses.
    pub async fn retire_role(&self) -> usize {
        let role = self.role();
        self.administer(&format!("ALTER ROLE {role} NOLOGIN")).await.expect("the role is retired");
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'");
        let mut connection =
            AsyncPgConnection::establish(self.server.as_str()).await.expect("Postgres answers");
        diesel::sql_query(end).execute(&mut connection).await.expect("connections can be ended")
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

    fn next_role(&self) -> String {
        format!("{}_next", self.role())
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
        cleanup::block_on("dropping a database", async {
            self.administer(&statement).await?;
            if self.has_role {
                self.administer(&format!("DROP ROLE IF EXISTS {}", self.next_role())).await?;
                self.administer(&format!("DROP ROLE {}", self.role())).await?;
            }
            Ok(())
        });
    }
}
