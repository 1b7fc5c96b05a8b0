"""Settings of the property tests: no deadline for one example, since machines that run tests are busy."""

from hypothesis import settings

settings.register_profile("wire", deadline=None)
settings.load_profile("wire")
