#!/bin/sh
# As that of the official image, as far as testcontainers needs it: POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB;
# PGPORT; the arguments are `postgres` and its options.
set -eu
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
shift
data=/var/lib/postgresql/data
secret=$(mktemp)
printf %s "$POSTGRES_PASSWORD" >"$secret"
initdb --pgdata "$data" --username "$POSTGRES_USER" --pwfile "$secret" --auth scram-sha-256 \
    --encoding UTF8 --locale C.UTF-8 >/dev/null
rm "$secret"
echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -D "$data" -j template1 >/dev/null
exec postgres -D "$data" --listen_addresses='*' --unix_socket_directories=/tmp "$@"
