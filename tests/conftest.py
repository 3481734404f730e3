"""How all tests run: hypothesis without a clock, under CI with the same examples; nobody's keyring in use."""

import os

from hypothesis import settings

settings.register_profile("house", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "house")

os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"  # of the programs we start, too
