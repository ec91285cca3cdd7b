"""The lake: closed days as Parquet files that are proved equal to what Postgres holds."""
