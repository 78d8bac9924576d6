"""What every test starts from: one seed, the framework's default settings, hypothesis without a clock, no given width
of the terminal, and threads that sleep while they wait."""

import os
from collections import Counter

import pytest

# Read as torch is imported, here and in every process that a test starts: of two tests on two cores each one's threads
# would else spin on the cores that the other's need, for twice the time in all.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from hypothesis import HealthCheck, settings

os.environ.pop("COLUMNS", None)  # rich's consoles, made on import, would keep this width whatever a test sets

slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=slow)
settings.register_profile("explore", deadline=None, max_examples=5000, suppress_health_check=slow)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

FRAMEWORK_SAYS = (  # of itself, where it is asked for what we compare with
    "ignore:Using padding='same' with even kernel:UserWarning",
    "ignore:Complex modules are a new feature:UserWarning",
    "ignore:`torch.jit:DeprecationWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:Attempted to insert a get_attr Node:UserWarning",
)


FIRST = "test_interpreter.py", "test_notebooks.py"  # few tests, but minutes: not to be the tail


def pytest_configure(config):
    config.option.loadscopereorder = False  # pytest-xdist's own order, by the number of tests
    for line in FRAMEWORK_SAYS:
        config.addinivalue_line("filterwarnings", line)


def pytest_collection_modifyitems(items):
    """Files that take minutes first, then those of many tests before those of few, as pytest-xdist has it."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name not in FIRST, -tests[item.path]))


@pytest.fixture(autouse=True)
def same_start():
    """One seed, one thread (most problems are tiny), no TF32: tests of other settings set them.

    TEST_THREADS gives more threads: the results are the same.
    """
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("TEST_THREADS", 1)))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
    torch.set_num_threads(threads)
