"""Database, unit of work, background jobs, HTTP, telemetry and the object store: the adapters every slice stands on."""
