"""Property tests have no deadline: a busy machine is not a fault of the code under test."""

from hypothesis import settings

settings.register_profile("house", deadline=None, print_blob=True)
settings.load_profile("house")
