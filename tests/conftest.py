"""No test may fail because a machine is slow: hypothesis has no deadline."""

from hypothesis import settings

settings.register_profile("interloom", deadline=None)
settings.load_profile("interloom")
