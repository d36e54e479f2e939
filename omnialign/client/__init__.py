"""The SDK: `AsyncClient` for asyncio, `Client` for everything else. The services call each other with `AsyncClient`.

    async with AsyncClient("127.0.0.1:50051") as client:
        answer = await client.generate("base", ["What colour is the circle?", Path("circle.png")])
        job = await client.create_alignment_job("first", spec)
        async for event in client.watch_alignment_job(job.name):
            ...

Calls raise `omnialign.errors`, never gRPC's own exceptions.
"""

from omnialign.client.asking import Answer, Assessment, Judgement
from omnialign.client.bulk_media import MediaByDigest
from omnialign.client.clients import AsyncClient
from omnialign.client.credentials import TokenFile
from omnialign.client.synchronous import Client

__all__ = ["Answer", "Assessment", "AsyncClient", "Client", "Judgement", "MediaByDigest", "TokenFile"]
