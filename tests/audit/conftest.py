import pytest


@pytest.fixture(autouse=True)
def own_home(settings, tmp_path):
    """A head file for each test, as each has its own rows."""
    settings.HOME = tmp_path
    return tmp_path
