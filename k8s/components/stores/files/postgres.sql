-- Roles and databases, run once by a superuser through psql, with these variables set: orders_owner_password,
-- orders_password, notify_owner_password, notify_password.
--
-- Each service has a database, and two roles there. The owner makes and changes tables: only migrations use it
-- (setting database.migration_url). The runtime role reads and writes rows: it cannot create, alter, drop or truncate
-- anything, so neither can whoever gets hold of the service. Neither role may enter the other database.
CREATE ROLE orders_owner LOGIN PASSWORD :'orders_owner_password' CONNECTION LIMIT 10;
CREATE ROLE orders LOGIN PASSWORD :'orders_password';
CREATE DATABASE orders OWNER orders_owner TEMPLATE template0 ENCODING 'UTF8';
REVOKE ALL ON DATABASE orders FROM PUBLIC;
GRANT CONNECT ON DATABASE orders TO orders;

CREATE ROLE notify_owner LOGIN PASSWORD :'notify_owner_password' CONNECTION LIMIT 10;
CREATE ROLE notify LOGIN PASSWORD :'notify_password';
CREATE DATABASE notify OWNER notify_owner TEMPLATE template0 ENCODING 'UTF8';
REVOKE ALL ON DATABASE notify FROM PUBLIC;
GRANT CONNECT ON DATABASE notify TO notify;

REVOKE ALL ON DATABASE postgres FROM PUBLIC;

\connect orders
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO orders;
ALTER DEFAULT PRIVILEGES FOR ROLE orders_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO orders;
ALTER DEFAULT PRIVILEGES FOR ROLE orders_owner IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO orders;

\connect notify
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO notify;
ALTER DEFAULT PRIVILEGES FOR ROLE notify_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO notify;
ALTER DEFAULT PRIVILEGES FOR ROLE notify_owner IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO notify;
