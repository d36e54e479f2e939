"""Changing a campaign while people annotate: its settings, and whether it is open. What was submitted never changes."""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection

from omnialign import names
from omnialign.errors import FailedPrecondition, NotFound
from omnialign.v1.annotation_service_pb2 import Campaign, UpdateCampaignRequest
from services.annotation import seating
from services.annotation.campaigns import (
    LEASE_SECONDS,
    Clock,
    VersionOf,
    check_overlap,
    invalid,
    is_pair,
    rank_of,
    seats_of,
)
from services.annotation.pairs import Pairs, gone
from services.annotation.store import Store
from services.runtime.uses import Uses

FIELDS = ("display_name", "instructions", "annotators", "overlap", "priorities", "lease_seconds", "start_from")
"""What can be changed."""
MAX_ANNOTATORS = 1000
"""As many as the contract lets a campaign list."""


class Changes:
    """Changes of the campaigns of a service."""

    def __init__(self, store: Store, pairs: Pairs, *, version_of: VersionOf, uses: Uses, now_us: Clock) -> None:
        self._store, self._pairs, self._version_of, self._now_us = store, pairs, version_of, now_us
        self._uses = uses

    async def update(self, request: UpdateCampaignRequest) -> Campaign:
        """Changes the fields of the mask.

        Raises NotFound, InvalidArgument UPDATE_MASK_INVALID and OVERLAP_TOO_LARGE, and for new priorities, which need
        the records, FailedPrecondition DATASET_VERSION_GONE.
        """
        given, mask = request.campaign, request.update_mask
        names.parse(given.name, names.CAMPAIGN, field="campaign.name")
        if not mask.paths or not set(mask.paths) <= set(FIELDS):
            problem = f"must name one or more of {', '.join(FIELDS)}; the rest of a campaign stays as it is"
            raise invalid("update_mask", problem, reason="UPDATE_MASK_INVALID")
        known = await self._store.campaign(given.name)
        if "start_from" in mask.paths and given.start_from:
            given.start_from = await self._version_of(given.start_from, names.project_name_of(given.name))
            await self._uses.begin(given.name, Campaign(start_from=given.start_from))
        mask.MergeMessage(given, known, replace_repeated_field=True)
        ranks = await self._ranks(known) if "priorities" in mask.paths else None

        def change(connection: Connection, campaign: Campaign) -> None:
            mask.MergeMessage(given, campaign, replace_repeated_field=True)
            campaign.overlap, campaign.lease_seconds = campaign.overlap or 1, campaign.lease_seconds or LEASE_SECONDS
            check_overlap(campaign)
            if {"annotators", "overlap"} & set(mask.paths):
                _reseat(connection, campaign, now_us=self._now_us())
            if ranks is not None:
                seating.rank(connection, campaign.name, ranks)

        await self._store.change(given.name, change)
        return await self._store.get(given.name, now_us=self._now_us())

    async def add_annotators(self, name: str, annotators: Collection[str]) -> None:
        """Adds names to those of a campaign that lists who may annotate, and the seats that this makes wanted.

        Raises NotFound, FailedPrecondition TOO_MANY_ANNOTATORS.
        """

        def change(connection: Connection, campaign: Campaign) -> None:
            new = sorted(set(annotators) - set(campaign.annotators))
            if not campaign.annotators or not new:
                return
            campaign.annotators.extend(new)
            if len(campaign.annotators) > MAX_ANNOTATORS:
                message = f"{name} would have more than {MAX_ANNOTATORS} annotators; import into several campaigns."
                raise FailedPrecondition(message, reason="TOO_MANY_ANNOTATORS", metadata={"name": name})
            _reseat(connection, campaign, now_us=self._now_us())

        await self._store.change(name, change)

    async def close(self, name: str) -> Campaign:
        """Ends the annotation. Raises NotFound."""
        return await self._set_state(name, Campaign.STATE_CLOSED)

    async def reopen(self, name: str) -> Campaign:
        """Lets it go on. Raises NotFound."""
        return await self._set_state(name, Campaign.STATE_OPEN)

    async def _set_state(self, name: str, state: "Campaign.State.ValueType") -> Campaign:
        names.parse(name, names.CAMPAIGN)

        def change(_: Connection, campaign: Campaign) -> None:
            campaign.state = state

        await self._store.change(name, change)
        return await self._store.get(name, now_us=self._now_us())

    async def _ranks(self, campaign: Campaign) -> Sequence[int]:
        """The place of each item among the priorities, in order of the items' numbers."""
        try:
            return [
                rank_of(campaign, record)
                async for record in self._pairs.all(campaign.dataset_version)
                if is_pair(record)
            ]
        except NotFound as error:
            raise gone(campaign.dataset_version) from error


def _reseat(connection: Connection, campaign: Campaign, *, now_us: int) -> None:
    if campaign.annotators:
        seating.free_seats_of_others(connection, campaign.name, campaign.annotators)
    wanted, wanted_of_quality = (seats_of(campaign, is_quality=is_quality) for is_quality in (False, True))
    seating.resize(connection, campaign.name, wanted, wanted_of_quality, now_us=now_us)
