"""Redis: claiming messages from lists, so that each always lies somewhere. Nothing here knows what a message means."""
