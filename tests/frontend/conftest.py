"""What the front end's tests share."""

import pytest


@pytest.fixture(params=[["eager"], None], ids=["eager", "default"])
def executors(request):
    return request.param
