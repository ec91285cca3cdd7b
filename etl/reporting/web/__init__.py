"""The wall: the pages of `etl serve`, read-only. Needs the extra `web`; nothing else in `reporting` imports this."""
