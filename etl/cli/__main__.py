"""`python -m etl.cli`, for where the console script isn't on the path."""

from etl.cli import main

main()
