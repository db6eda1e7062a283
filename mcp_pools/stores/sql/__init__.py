"""What the stores say to their databases: migrations, statements, rows."""
