"""Calls of the EvaluationService: evaluations, their reports, and comparisons of them."""

import uuid
from collections.abc import AsyncIterator
from typing import cast

from omnialign.client.jobs import (
    PREFLIGHT_DEADLINE_SECONDS,
    RECONNECT_SECONDS,
    REPORT_DEADLINE_SECONDS,
    JobCalls,
)
from omnialign.client.transport import Transport
from omnialign.v1 import evaluation_service_pb2, evaluation_service_pb2_grpc

Evaluation = evaluation_service_pb2.Evaluation

ENDED_EVALUATION_STATES = frozenset({Evaluation.STATE_SUCCEEDED, Evaluation.STATE_FAILED, Evaluation.STATE_CANCELLED})


class EvaluationCalls(JobCalls):
    """Evaluations."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._evaluation = evaluation_service_pb2_grpc.EvaluationServiceStub(transport.channel)

    async def create_evaluation(
        self,
        evaluation_id: str,
        spec: evaluation_service_pb2.EvaluationSpec,
        *,
        request_id: str = "",
        validate_only: bool = False,
    ) -> Evaluation:
        """Submits an evaluation. If `evaluation_id` is empty, the service chooses one.

        `validate_only` checks it and creates nothing. The check reads all items, which may take minutes; its deadline
        is five. Calls with the same `request_id` create one evaluation.
        """
        request = evaluation_service_pb2.CreateEvaluationRequest(
            parent=self.parent,
            evaluation_id=evaluation_id,
            evaluation=Evaluation(spec=spec),
            request_id=request_id or str(uuid.uuid4()),
            validate_only=validate_only,
        )
        deadline_seconds = PREFLIGHT_DEADLINE_SECONDS if validate_only else None
        return await self._transport.unary(
            self._evaluation.CreateEvaluation, request, deadline_seconds=deadline_seconds
        )

    async def get_evaluation(self, name: str) -> Evaluation:
        """Returns one evaluation. Raises NotFound."""
        request = evaluation_service_pb2.GetEvaluationRequest(name=name)
        return await self._transport.unary(self._evaluation.GetEvaluation, request)

    def list_evaluations(self) -> AsyncIterator[Evaluation]:
        """All evaluations of the project, newest first."""
        request = evaluation_service_pb2.ListEvaluationsRequest(parent=self.parent)
        return self._pages(self._evaluation.ListEvaluations, request, items="evaluations")

    async def pause_evaluation(self, name: str) -> Evaluation:
        """Stops an evaluation from starting new work. Raises FailedPrecondition if it is not running."""
        request = evaluation_service_pb2.PauseEvaluationRequest(name=name)
        return await self._transport.unary(self._evaluation.PauseEvaluation, request)

    async def resume_evaluation(self, name: str) -> Evaluation:
        """Continues a paused evaluation. Raises FailedPrecondition if it is not paused."""
        request = evaluation_service_pb2.ResumeEvaluationRequest(name=name)
        return await self._transport.unary(self._evaluation.ResumeEvaluation, request)

    async def cancel_evaluation(self, name: str) -> Evaluation:
        """Ends an evaluation. One that has ended stays as it is."""
        request = evaluation_service_pb2.CancelEvaluationRequest(name=name)
        return await self._transport.unary(self._evaluation.CancelEvaluation, request)

    async def delete_evaluation(self, name: str) -> None:
        """Deletes an evaluation that has ended; its tables stay. Raises NotFound, and FailedPrecondition JOB_STATE."""
        request = evaluation_service_pb2.DeleteEvaluationRequest(name=name)
        # A second attempt, after a first that succeeded unseen, would raise NotFound.
        await self._transport.unary(self._evaluation.DeleteEvaluation, request, idempotent=False)

    def watch_evaluation(
        self, name: str, *, resume_after: int = 0, reconnect_seconds: float = RECONNECT_SECONDS
    ) -> AsyncIterator[evaluation_service_pb2.WatchEvaluationResponse]:
        """Yields the events of an evaluation until it ends; survives restarts of the service of up to
        `reconnect_seconds`."""
        return self._watch(
            self._evaluation.WatchEvaluation,
            evaluation_service_pb2.WatchEvaluationRequest(name=name, resume_after=resume_after),
            ended=lambda event: event.evaluation.state in ENDED_EVALUATION_STATES,
            reconnect_seconds=reconnect_seconds,
        )

    async def get_evaluation_report(self, name: str, format: int = 0) -> bytes:  # noqa: A002  the contract's word
        """The report of an evaluation that succeeded; `format` is a `GetEvaluationReportRequest.Format`, 0 is JSON."""
        request = evaluation_service_pb2.GetEvaluationReportRequest(
            name=name, format=cast("evaluation_service_pb2.GetEvaluationReportRequest.Format.ValueType", format)
        )
        return await self._report(self._evaluation.GetEvaluationReport, request)

    async def compare_evaluations(
        self, name: str, *, baseline: str = "", model: str = "", baseline_model: str = "", allow_unlike: bool = False
    ) -> evaluation_service_pb2.CompareEvaluationsResponse:
        """Compares a model with a baseline on the same items, in one evaluation or in two.

        Raises FailedPrecondition MANIFESTS_UNLIKE, and InvalidArgument MODEL_UNCLEAR or MODEL_NOT_EVALUATED.
        """
        request = evaluation_service_pb2.CompareEvaluationsRequest(
            name=name, baseline=baseline, model=model, baseline_model=baseline_model, allow_unlike=allow_unlike
        )
        return await self._transport.unary(
            self._evaluation.CompareEvaluations, request, deadline_seconds=REPORT_DEADLINE_SECONDS
        )

    async def get_comparison_report(
        self,
        name: str,
        format: int = 0,  # noqa: A002  the contract's word
        *,
        baseline: str = "",
        model: str = "",
        baseline_model: str = "",
        allow_unlike: bool = False,
    ) -> bytes:
        """The report of a comparison, with the items that differ most; `format` is as for `get_evaluation_report`, and
        the rest, with what is raised, as for `compare_evaluations`."""
        comparison = evaluation_service_pb2.CompareEvaluationsRequest(
            name=name, baseline=baseline, model=model, baseline_model=baseline_model, allow_unlike=allow_unlike
        )
        request = evaluation_service_pb2.GetComparisonReportRequest(
            comparison=comparison,
            format=cast("evaluation_service_pb2.GetEvaluationReportRequest.Format.ValueType", format),
        )
        return await self._report(self._evaluation.GetComparisonReport, request)
