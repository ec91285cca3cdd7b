"""Private servers out of wheels, each in a folder of its own: for the demo, the selftest and the tests."""
