"""For all tests: hypothesis judges results and never speed, because machines that run tests are busy."""

from hypothesis import HealthCheck, settings

settings.register_profile("drover", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("drover")
