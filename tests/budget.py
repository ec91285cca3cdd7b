"""How many examples a test gets that goes through a server with each."""

from hypothesis import settings


def examples(share: float) -> int:
    """This share of what the profile gives to a test: a hundred in the suite, a thousand in `make nightly`."""
    return round(settings().max_examples * share)
