#!/bin/sh
# Run once, by the PostgreSQL that starts with an empty folder: a database and a user each for Kvit and for Prefect.
set -eu
psql --set ON_ERROR_STOP=1 --username postgres \
    --set kvit="$KVIT_DATABASE_PASSWORD" --set prefect="$PREFECT_DATABASE_PASSWORD" <<'SQL'
CREATE ROLE kvit LOGIN PASSWORD :'kvit';
CREATE DATABASE kvit OWNER kvit;
CREATE ROLE prefect LOGIN PASSWORD :'prefect';
CREATE DATABASE prefect OWNER prefect;
\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
SQL
