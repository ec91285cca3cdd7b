"""Engines that read the lake, each asked the same as SQL is, in a process of its own. `make engines` asks those, too,
that don't come from pip alone, and has Spark query the table while its pointer moves.
"""
