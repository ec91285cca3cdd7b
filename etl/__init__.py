"""The durable archive of a call centre's dialler: from Redis lists into Postgres, and on into Parquet."""

__version__ = "0.2.0"
