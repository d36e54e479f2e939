"""The data service allocates with glibc, and hands this on to no child, unless an operator chose an allocator."""

import os
import subprocess
import sys

import pytest

TELL = (
    "import services.data.__main__, os, pyarrow; "
    "print(pyarrow.default_memory_pool().backend_name, os.environ.get('ARROW_DEFAULT_MEMORY_POOL'))"
)


@pytest.mark.parametrize(("chosen", "told"), [(None, "system None"), ("mimalloc", "mimalloc mimalloc")])
def test_the_allocator_is_glibc_in_the_service_alone_unless_another_is_chosen(chosen: str | None, told: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "ARROW_DEFAULT_MEMORY_POOL"}
    environment |= {"ARROW_DEFAULT_MEMORY_POOL": chosen} if chosen else {}
    found = subprocess.run([sys.executable, "-c", TELL], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == told
