"""Where durable state is kept: one module a database."""
