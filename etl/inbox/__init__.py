"""Redis: claiming messages from lists so that none is ever in one place only. Nothing here knows what a message means."""
