"""Postgres: the tables, and the one way into them. Nothing here knows Redis, or what a message looked like."""
