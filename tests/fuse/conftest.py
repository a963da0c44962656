"""What the tests of the kernel's side share."""

import pytest
from mount.namespaces import enter_own_mount_namespace


@pytest.fixture(autouse=True, scope="session")
def _own_mount_namespace() -> None:
    enter_own_mount_namespace()
