"""The built-in task types: one module a handler, `catalog` declares them."""
