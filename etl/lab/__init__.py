"""Tools for development and the demo. Nothing that runs in production imports them."""
