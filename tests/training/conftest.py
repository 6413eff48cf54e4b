import gc

import pytest


@pytest.fixture
def damaging():
    """For tests that make Orbax fail: what it leaves half-awaited is collected here, not in some later test."""
    yield
    gc.collect()


def pytest_collection_modifyitems(items):
    for item in items:
        if "damaging" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore:coroutine"))
