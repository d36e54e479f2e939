"""Has programs (`omnialign.checkers`) check the answers in records, with the media of both."""

from collections.abc import Mapping, Sequence

from omnialign import checkers
from omnialign.content import contents_of, media_of
from omnialign.errors import NotFound, OmnialignError
from services.pipeline.kind import JobContext, Outcome, Record, Records
from services.pipeline.model_calls import is_empty
from services.pipeline.quarantine import quarantined
from services.pipeline.service_calls import ServiceRetrier


class AnswerChecker:
    """Checks answers on behalf of all jobs of a process."""

    def __init__(self, retrier: ServiceRetrier) -> None:
        self._retrier = retrier

    async def check(
        self, context: JobContext, records: Records, programs: Sequence[checkers.Checker], *, stage: str
    ) -> Outcome:
        """Adds the checkers' feedback to each response that says something; an empty one has none.

        A record that a checker cannot take is rejected, with the stage it left. Changes the records.
        """
        media = await self._media(context, records)
        outcome = Outcome()
        for record in records:
            try:
                await _mark(record, programs, media=media)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                reason = error.reason if isinstance(error, OmnialignError) else "CHECKER_FAILED"
                outcome.rejected.append(quarantined(record, stage=stage, reason=reason, message=problem))
            else:
                outcome.records.append(record)
        return outcome

    async def _media(self, context: JobContext, records: Records) -> Mapping[str, bytes]:
        """The bytes of the media of the records by digest; those that are gone are left out."""
        digests = sorted({media.sha256 for record in records for media in media_of(contents_of(record))})
        if not digests:
            return {}
        fetched = await self._retrier.call(
            lambda: context.clients.data.fetch_media(digests), uid=context.uid, service="data"
        )
        for error in fetched.errors.values():
            if not isinstance(error, NotFound):
                raise error
        return fetched


async def _mark(record: Record, programs: Sequence[checkers.Checker], *, media: Mapping[str, bytes]) -> None:
    for medium in media_of(contents_of(record)):
        if medium.sha256 not in media:
            raise NotFound(f"the medium {medium.sha256} is not stored", reason="MEDIA_NOT_FOUND")
    for response in record.responses:
        if not is_empty(response.content):
            feedback = await checkers.check(programs, record=record, response=response.content, media=media)
            response.feedback.CopyFrom(feedback)
