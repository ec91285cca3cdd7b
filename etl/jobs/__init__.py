"""The order of steps, and nothing of how a step is done: no SQL, no Redis command."""
