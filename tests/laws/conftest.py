"""Parameters that every law runs over."""

import pytest

from tests.laws.families import FAMILIES, IMPLEMENTATIONS


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request):
    return request.param


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request):
    return request.param
