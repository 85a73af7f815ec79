"""The database: schema, migrations, leases, the bulk writer, and what is read back. One dialect: Postgres."""
