#!/usr/bin/env bash
# Databases and roles of deploy/stores/postgres.sql: run by the image once, when it makes its data.
set -euo pipefail
{
    # Through standard input: arguments are seen by everybody.
    printf '\\set orders_owner_password %s\n\\set orders_password %s\n' "$ORDERS_OWNER_PASSWORD" "$ORDERS_PASSWORD"
    printf '\\set notify_owner_password %s\n\\set notify_password %s\n' "$NOTIFY_OWNER_PASSWORD" "$NOTIFY_PASSWORD"
    cat /stampede/postgres.sql
} | psql -X -q -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres
