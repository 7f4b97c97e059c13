"""No test may fail because a machine is slow, or pass today and fail tomorrow.

Hypothesis has no deadline and draws the same examples each time; INTERLOOM_EXPLORE=1 lets it look for new ones.
"""

import os

from hypothesis import settings

settings.register_profile("interloom", deadline=None, derandomize=os.environ.get("INTERLOOM_EXPLORE") != "1")
settings.load_profile("interloom")
