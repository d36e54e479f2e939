"""Hands the trainer's weights over to the engine that draws the answers (PolicyService).

Version s + 1 of a policy holds the weights after s optimiser steps; version 0 would be the base model. An attempt of a
run opens its policy anew, because an earlier one may have got farther than the checkpoint that this one goes on from. A
service that has restarted knows no policy (`POLICY_NOT_FOUND`): it gets the same weights again, from the folder that is
kept until newer ones are there.
"""

import ipaddress
import logging
import shutil
from functools import partial
from pathlib import Path

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition, NotFound, PermissionDenied
from training.client import SERVICE_RETRIES, TRANSIENT, connection_of, retry_while_away
from training.spec import Spec

log = logging.getLogger(__name__)


class HandOver:
    """The policy of a run. Rank 0 calls it; the others keep `step`."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._base_model = spec.base_model or spec.base_model_dir.resolve().as_uri()
        self._folder = spec.output_dir / "policy"
        self._is_local = is_loopback(spec.refinement_address)
        self._is_open = False
        self.name = policy_name(spec.job)
        self.step = 0
        """After which the service's weights are, or are to be."""

    @property
    def version(self) -> int:
        """Of the policy that answers are to be drawn from."""
        return self.step + 1

    def folder(self, step: int) -> Path:
        """Where the weights after so many steps are to be written."""
        return self._folder / f"step-{step}"

    async def bring(self, step: int) -> None:
        """Hands over the weights in `folder(step)`, and removes older ones.

        Raises the service's error if it stays away.
        """
        self.step = step
        async with self._client() as client:
            await retry_while_away(
                partial(self._bring, client),
                policy=SERVICE_RETRIES,
                what="handing the weights over",
                transient=TRANSIENT,
            )
        for old in self._folder.glob("*"):
            if old != self.folder(step):
                shutil.rmtree(old, ignore_errors=True)

    async def restore(self, client: AsyncClient) -> None:
        """Gives a service that lost the policy, or holds another version of it, the one that it is to have.

        Which of several replicas lost it is not known. An update reaches all, and where it is held already it changes
        nothing, so it is sent in any case.
        """
        log.warning("an engine does not hold version %d of %s and gets it again", self.version, self.name)
        try:
            await self._bring(client)
        except FailedPrecondition as error:
            if error.reason != "POLICY_VERSION_NOT_NEWER":
                raise
            self._is_open = False
            await self._bring(client)

    async def close(self) -> None:
        """Frees the policy's memory."""
        async with self._client() as client:
            await client.close_policy(self.name)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _bring(self, client: AsyncClient) -> None:
        if not self._is_open:
            # What an earlier attempt left may be newer, and no policy goes back.
            await client.close_policy(self.name)
            await client.open_policy(names.id_of(self.name), self._base_model)
            self._is_open = True
        try:
            await self._send(client)
        except NotFound as error:
            if error.reason != "POLICY_NOT_FOUND":
                raise
            # The service has restarted since the last version.
            await client.open_policy(names.id_of(self.name), self._base_model)
            await self._send(client)

    async def _send(self, client: AsyncClient) -> None:
        folder = self.folder(self.step)
        if self._is_local:
            try:
                await client.update_policy(self.name, folder.resolve().as_uri(), version=self.version)
            except PermissionDenied as error:  # a service of this machine that reads no folder of ours
                log.info("the weights are sent instead: %s", error.message)
                self._is_local = False
            else:
                return
        await client.update_policy(self.name, folder, version=self.version)

    def _client(self) -> AsyncClient:
        return AsyncClient(self._spec.refinement_address, **connection_of(self._spec.job, token=self._spec.token))


def policy_name(job: str) -> str:
    """The name of a job's policy: its id is that of the job."""
    project = names.project_of(job) or "default"
    return f"projects/{project}/policies/{names.id_of(job)}"


def version_name(policy: str, version: int) -> str:
    """The name of exactly one version of a policy."""
    return f"{policy}/versions/{version}"


def is_loopback(address: str) -> bool:
    """Whether an address is of this machine, so that its service reads our files."""
    host = address.rpartition("://")[2].rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
