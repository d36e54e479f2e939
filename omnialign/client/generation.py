"""Calls of the RefinementService, the CritiqueService and the JudgeService.

Every method streams: results arrive in the order in which they finish, not in the order of the request, and each says
which item it belongs to. There is no deadline unless given, because the time depends on the model. Leaving the
iteration, or cancelling the task that iterates, cancels the work on the server too.
"""

from collections.abc import AsyncIterator

from omnialign.client.transport import ServiceCalls, Transport
from omnialign.v1 import (
    critique_service_pb2,
    critique_service_pb2_grpc,
    judge_service_pb2,
    judge_service_pb2_grpc,
    refinement_service_pb2,
    refinement_service_pb2_grpc,
)


class GenerationCalls(ServiceCalls):
    """Responses, critiques and judgements, written by models, and rewards.

    A call is retried only until its first result; after that the caller alone knows which items still lack one.
    """

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._refinement = refinement_service_pb2_grpc.RefinementServiceStub(transport.channel)
        self._critique = critique_service_pb2_grpc.CritiqueServiceStub(transport.channel)
        self._judge = judge_service_pb2_grpc.JudgeServiceStub(transport.channel)

    def generate_items(
        self, request: refinement_service_pb2.GenerateRequest, *, deadline_seconds: float | None = None
    ) -> AsyncIterator[refinement_service_pb2.GenerateResponse]:
        """Answers prompts (the y of the method)."""
        return self._transport.stream(self._refinement.Generate, request, deadline_seconds=deadline_seconds)

    def refine(
        self, request: refinement_service_pb2.RefineRequest, *, deadline_seconds: float | None = None
    ) -> AsyncIterator[refinement_service_pb2.RefineResponse]:
        """Rewrites responses with the help of their critiques (the y* of the method)."""
        return self._transport.stream(self._refinement.Refine, request, deadline_seconds=deadline_seconds)

    def critique_items(
        self, request: critique_service_pb2.CritiqueRequest, *, deadline_seconds: float | None = None
    ) -> AsyncIterator[critique_service_pb2.CritiqueResponse]:
        """Writes language feedback on responses (the c of the method)."""
        return self._transport.stream(self._critique.Critique, request, deadline_seconds=deadline_seconds)

    def score_responses(
        self, request: judge_service_pb2.ScoreResponseRequest, *, deadline_seconds: float | None = None
    ) -> AsyncIterator[judge_service_pb2.ScoreResponseResponse]:
        """Scores responses from 0 to 3 in each dimension."""
        return self._transport.stream(self._judge.ScoreResponse, request, deadline_seconds=deadline_seconds)

    def compare_responses(
        self, request: judge_service_pb2.CompareResponsesRequest, *, deadline_seconds: float | None = None
    ) -> AsyncIterator[judge_service_pb2.CompareResponsesResponse]:
        """Compares pairs of responses, each in both orders, because judges favour a position."""
        return self._transport.stream(self._judge.CompareResponses, request, deadline_seconds=deadline_seconds)

    def compute_rewards(
        self, request: judge_service_pb2.ComputeRewardsRequest, *, deadline_seconds: float | None = None
    ) -> AsyncIterator[judge_service_pb2.ComputeRewardsResponse]:
        """Computes the rewards that a reward model gives to responses."""
        return self._transport.stream(self._judge.ComputeRewards, request, deadline_seconds=deadline_seconds)

    def score_understanding(
        self, request: judge_service_pb2.ScoreUnderstandingRequest, *, deadline_seconds: float | None = None
    ) -> AsyncIterator[judge_service_pb2.ScoreUnderstandingResponse]:
        """Rates answers to questions about media from 1 to 10, against those of people."""
        return self._transport.stream(self._judge.ScoreUnderstanding, request, deadline_seconds=deadline_seconds)

    def score_generation(
        self, request: judge_service_pb2.ScoreGenerationRequest, *, deadline_seconds: float | None = None
    ) -> AsyncIterator[judge_service_pb2.ScoreGenerationResponse]:
        """Rates from 1 to 10 how well texts and media follow instructions."""
        return self._transport.stream(self._judge.ScoreGeneration, request, deadline_seconds=deadline_seconds)

    def answer_questions(
        self, request: judge_service_pb2.AnswerQuestionsRequest, *, deadline_seconds: float | None = None
    ) -> AsyncIterator[judge_service_pb2.AnswerQuestionsResponse]:
        """Answers multiple-choice questions about what a model is shown."""
        return self._transport.stream(self._judge.AnswerQuestions, request, deadline_seconds=deadline_seconds)
