"""Redis: claiming messages from lists so that none is ever lost. What a message means is decided in `etl.wire`."""
