"""The plugins with the shared fixtures, Hypothesis's profiles, and SIGINT as Python handles it."""

import signal

import hypothesis

pytest_plugins = [
    "tests.fixtures.databases",
    "tests.fixtures.mail",
    "tests.fixtures.command",
    "tests.fixtures.sandbox",
    "tests.fixtures.programs",
    "tests.fixtures.doctor",
    "tests.fixtures.django_project",
]

# For `make fuzz`. Otherwise each property has its fixed number of examples.
hypothesis.settings.register_profile("fuzz", max_examples=1000, deadline=None, print_blob=True)
# A slow example on a busy machine is no failure.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")
# A shell starts a background job with SIGINT ignored. Each process that a test interrupts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
