"""How many alignment jobs a project may have at a time."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from omnialign.errors import ResourceExhausted
from services.runtime.limits import Quotas
from services.runtime.server import Server
from tests.service_stack import ServiceStack


class Limited(ServiceStack):
    """A stack with a file of quotas."""

    @contextlib.asynccontextmanager
    async def _wired(self, name: str, server: Server) -> AsyncIterator[None]:
        (self.root / "quotas").write_text("default: {alignment_jobs: 1}")
        server.quotas = Quotas(self.root / "quotas")
        async with super()._wired(name, server):
            yield


async def test_one_job_too_many_is_refused_until_another_has_ended(tmp_path: Path) -> None:
    stack = Limited(tmp_path)
    await stack.open()
    try:
        first = await stack.submit()
        await stack.alignment.pause_alignment_job(first.name)
        with pytest.raises(ResourceExhausted) as caught:
            await stack.alignment.create_alignment_job("second", first.spec)
        assert (caught.value.reason, caught.value.metadata["limit"]) == ("QUOTA_EXCEEDED", "1")
        await stack.alignment.create_alignment_job("asked", first.spec, validate_only=True)
        await stack.alignment.cancel_alignment_job(first.name)
        await stack.end_of(first.name)
        await stack.alignment.create_alignment_job("second", first.spec)
    finally:
        await stack.close()
