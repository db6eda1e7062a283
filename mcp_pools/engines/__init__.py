"""Engines: one module each, imported by the link that speaks to it."""
