import pytest

from emulator import emulator
from observed import Observed
from programs import BUILT, PROGRAMS
from scenario import groups, observe


def pytest_configure():
    missing = [name for name in PROGRAMS.values() if not (BUILT / name).is_file()]
    if missing:
        command = "cargo test --workspace --all-features --no-run"
        pytest.exit(f"{', '.join(missing)} must be built before these tests: {command}", returncode=1)


@pytest.fixture(scope="session")
def observed(tmp_path_factory):
    """What every program did in one scenario, which runs once for all tests that use it."""
    directory = tmp_path_factory.mktemp("observed")
    with emulator(directory) as dynamodb:
        found = Observed(directory, dynamodb, groups())
        try:
            observe(found)
        finally:
            found.close()
    assert found.aws.problems == [], "the loopback AWS had no answer"
    return found
