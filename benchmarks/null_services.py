"""Model and training services that do nothing but answer: real gRPC, deterministic texts, no model.

They measure what the orchestrator costs, and stand in for models in its tests. Faults are set on a `Behaviour`.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from omnialign.content import content, text_of
from omnialign.errors import FailedPrecondition, InvalidArgument, NotFound, OmnialignError, to_status
from omnialign.v1 import (
    content_pb2,
    critique_service_pb2,
    critique_service_pb2_grpc,
    generation_pb2,
    judge_service_pb2,
    judge_service_pb2_grpc,
    record_pb2,
    refinement_service_pb2,
    refinement_service_pb2_grpc,
    training_service_pb2,
    training_service_pb2_grpc,
)
from services.runtime.server import Server

TrainingJob = training_service_pb2.TrainingJob
ENDED = (TrainingJob.STATE_SUCCEEDED, TrainingJob.STATE_FAILED, TrainingJob.STATE_CANCELLED)
TOKENS = 7


@dataclass
class Behaviour:
    """What the services do beyond answering. `faults(rpc, id)` gives an item's error, or None."""

    faults: Callable[[str, str], OmnialignError | None] = lambda _rpc, _id: None
    abstains: Callable[[str], bool] = lambda _id: False
    verdict: Callable[[str], record_pb2.Verdict.ValueType] = lambda _id: record_pb2.VERDICT_WIN
    margins: Callable[[str], tuple[float, float] | None] = lambda _id: None
    """The margins of both orders, for calls that ask for them; None for a judge that has none."""
    replies: Callable[[str, Any], content_pb2.Content | None] = lambda _model, _item: None
    """What a model answers to an item of Generate; None for a text made of model, prompt and seed."""
    deltas: Sequence[str] = ()
    """Texts that Generate with `stream_text` sends of each answer before it finishes, which `Finish` can hold."""
    orders: Callable[[str], tuple[record_pb2.Verdict.ValueType, record_pb2.Verdict.ValueType] | None] = lambda _id: None
    """What the judge's words say in each order; None for the verdict in both."""
    unchanged: Callable[[str], bool] = lambda _id: False
    holds: dict[str, asyncio.Event] = field(default_factory=dict)
    """A call of an RPC named here waits for the event before it answers."""
    entered: dict[str, asyncio.Event] = field(default_factory=dict)
    """Set when a call of the RPC begins, if it is named here."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(rpc, id) of every requested item, repetitions included; filled only if `log` is true."""
    log: bool = True
    policies: dict[str, generation_pb2.MediaPolicy] = field(default_factory=dict)
    """The media policy of the last call of each RPC."""
    forms: dict[str, generation_pb2.AnswerForm.ValueType] = field(default_factory=dict)
    """The form of answers that the last call of each RPC asked for."""
    delay_seconds: float = 0.0
    """How long each call, and each training step, takes."""
    training_steps: int = 3
    training_error: OmnialignError | None = None

    async def enter(self, rpc: str, ids: list[str]) -> None:
        """Records a call, and waits if the RPC is held."""
        if self.log:
            self.asked += [(rpc, item) for item in ids]
        if rpc in self.entered:
            self.entered[rpc].set()
        if rpc in self.holds:
            await self.holds[rpc].wait()
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)

    def hold(self, rpc: str) -> tuple[asyncio.Event, asyncio.Event]:
        """Holds an RPC; returns two events: one is set when a call arrives, set the other to release it."""
        entered, release = asyncio.Event(), asyncio.Event()
        self.entered[rpc], self.holds[rpc] = entered, release
        return entered, release


class NullRefinement(refinement_service_pb2_grpc.RefinementServiceServicer):
    """Answers with a text made of model, prompt and seed."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """y ~ pi(x)."""
        self._behaviour.policies["Generate"] = request.media_policy
        await self._behaviour.enter("Generate", [item.id for item in request.items])
        for item in request.items:
            words = f"{digest(request.model, text_of(item.prompt), item.seed)} by {request.model.split('/')[3:4]}"
            result = _outcome(self._behaviour, "Generate", item.id) or {"response": _response(request, item, words)}
            if "response" in result and (reply := self._behaviour.replies(request.model, item)) is not None:
                result["response"].content.CopyFrom(reply)
            for text in self._behaviour.deltas if request.stream_text else ():
                delta = refinement_service_pb2.TextDelta(text=text)
                yield refinement_service_pb2.GenerateResponse(id=item.id, delta=delta)
                await self._behaviour.enter("Finish", [item.id])
            for sample in range(request.num_samples or 1):
                yield refinement_service_pb2.GenerateResponse(id=item.id, sample=sample, **result)

    async def Refine(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """y* ~ pi(x, y, c)."""
        self._behaviour.policies["Refine"] = request.media_policy
        await self._behaviour.enter("Refine", [item.id for item in request.items])
        for item in request.items:
            words = text_of(item.response)
            if not self._behaviour.unchanged(item.id):
                words = f"{words}, better: {item.feedback.refinement}"
            result = _outcome(self._behaviour, "Refine", item.id) or {"response": _response(request, item, words)}
            yield refinement_service_pb2.RefineResponse(id=item.id, **result)


class NullCritique(critique_service_pb2_grpc.CritiqueServiceServicer):
    """Criticises everything in the same way."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    async def Critique(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """c ~ p(x, y)."""
        self._behaviour.policies["Critique"] = request.media_policy
        self._behaviour.forms["Critique"] = request.answer_form
        await self._behaviour.enter("Critique", [item.id for item in request.items])
        for item in request.items:
            yield critique_service_pb2.CritiqueResponse(id=item.id, **self._result(request, item))

    def _result(self, request: Any, item: Any) -> dict[str, Any]:
        if result := _outcome(self._behaviour, "Critique", item.id):
            return result
        if self._behaviour.abstains(item.id):
            return {"abstention": critique_service_pb2.Abstention(reason="ANSWER_UNPARSABLE", text="mumble")}
        feedback = record_pb2.Feedback(
            scores=[record_pb2.DimensionScore(dimension="prompt_following", score=1, rationale="so so")],
            critique="It could be better.",
            refinement=f"Say {digest(text_of(item.response))}.",
            generation=_info(request, item),
        )
        return {"feedback": feedback}


class NullJudge(judge_service_pb2_grpc.JudgeServiceServicer):
    """Judges as the behaviour says."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    async def CompareResponses(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """A verdict for each pair."""
        self._behaviour.policies["CompareResponses"] = request.media_policy
        self._behaviour.forms["CompareResponses"] = request.answer_form
        await self._behaviour.enter("CompareResponses", [item.id for item in request.items])
        for item in request.items:
            result = _outcome(self._behaviour, "CompareResponses", item.id)
            yield judge_service_pb2.CompareResponsesResponse(id=item.id, **(result or self._verdict(request, item)))

    async def ScoreResponse(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """No scores: the loop does not request any."""
        for item in request.items:
            abstention = critique_service_pb2.Abstention(reason="NOT_SCORED")
            yield judge_service_pb2.ScoreResponseResponse(id=item.id, abstention=abstention)

    async def ComputeRewards(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Rewards each response by its length."""
        await self._behaviour.enter("ComputeRewards", [item.id for item in request.items])
        for item in request.items:
            result = _outcome(self._behaviour, "ComputeRewards", item.id)
            reward = {"reward": float(len(text_of(item.response)))}
            yield judge_service_pb2.ComputeRewardsResponse(id=item.id, **(result or reward))

    async def ScoreUnderstanding(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """A rating of each response."""
        async for result in self._ratings("ScoreUnderstanding", request, judge_service_pb2.ScoreUnderstandingResponse):
            yield result

    async def ScoreGeneration(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """A rating of each response."""
        async for result in self._ratings("ScoreGeneration", request, judge_service_pb2.ScoreGenerationResponse):
            yield result

    async def _ratings(self, rpc: str, request: Any, result_type: Any) -> AsyncIterator[Any]:
        """Rates each response by its length: 1 to 10."""
        await self._behaviour.enter(rpc, [item.id for item in request.items])
        for item in request.items:
            result = _outcome(self._behaviour, rpc, item.id)
            if not result and self._behaviour.abstains(item.id):
                result = {"abstention": critique_service_pb2.Abstention(reason="ANSWER_UNPARSABLE", text="mumble")}
            score = 1 + len(text_of(item.response)) % 10
            rating = judge_service_pb2.Rating(score=score, reason="by its length", generation=_info(request, item))
            yield result_type(id=item.id, attempts=1, **(result or {"rating": rating}))

    async def AnswerQuestions(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """The first choice of each question."""
        await self._behaviour.enter("AnswerQuestions", [item.id for item in request.items])
        for item in request.items:
            result = _outcome(self._behaviour, "AnswerQuestions", item.id)
            if not result and self._behaviour.abstains(item.id):
                result = {"abstention": critique_service_pb2.Abstention(reason="ANSWER_UNPARSABLE", text="mumble")}
            choice = judge_service_pb2.Choice(number=1, generation=_info(request, item))
            yield judge_service_pb2.AnswerQuestionsResponse(id=item.id, attempts=1, **(result or {"choice": choice}))

    def _verdict(self, request: Any, item: Any) -> dict[str, Any]:
        verdict = self._behaviour.verdict(item.id)
        reason = "ANSWER_UNPARSABLE" if verdict == record_pb2.VERDICT_ABSTAIN else ""
        info = _info(request, item)
        comparison = record_pb2.Comparison(
            verdict=verdict, abstain_reason=reason, forward_generation=info, backward_generation=info
        )
        comparison.forward_verdict, comparison.backward_verdict = self._behaviour.orders(item.id) or (verdict, verdict)
        if request.with_margins and not reason and (margins := self._behaviour.margins(item.id)):
            comparison.forward_margin, comparison.backward_margin = margins
        return {"comparison": comparison}


class NullTraining(training_service_pb2_grpc.TrainingServiceServicer):
    """Keeps training jobs in memory and counts their steps."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self.jobs: dict[str, TrainingJob] = {}
        self._requests: dict[str, str] = {}
        self._events: dict[str, list[TrainingJob]] = {}
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def CreateTrainingJob(self, request: Any, context: Any) -> TrainingJob:  # noqa: N802
        """Starts a job; the same request id gives the same job."""
        if request.request_id in self._requests:
            return self.jobs[self._requests[request.request_id]]
        name = f"{request.parent}/trainingJobs/{request.training_job_id}"
        job = TrainingJob(name=name, spec=request.training_job.spec, state=TrainingJob.STATE_QUEUED)
        if request.validate_only:
            job.memory.total_bytes = 2_000_000
            return job
        self.jobs[name] = job
        self._requests[request.request_id] = name
        self._record(job)
        task = asyncio.create_task(self._run(name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def GetTrainingJob(self, request: Any, context: Any) -> TrainingJob:  # noqa: N802
        """Reads a job."""
        return self._get(request.name)

    async def ListTrainingJobs(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Lists all jobs."""
        return training_service_pb2.ListTrainingJobsResponse(training_jobs=list(self.jobs.values()))

    async def StreamTrainingLog(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Streams a log without lines."""
        self._get(request.name)
        yield training_service_pb2.StreamTrainingLogResponse()

    async def ReportProgress(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Takes a report from a running job."""
        return training_service_pb2.ReportProgressResponse()

    async def DeliverModel(self, requests: Any, context: Any) -> Any:  # noqa: N802
        """Takes a finished model and discards it."""
        async for _ in requests:
            pass
        return training_service_pb2.DeliverModelResponse()

    async def CancelTrainingJob(self, request: Any, context: Any) -> TrainingJob:  # noqa: N802
        """Ends a job."""
        job = self._get(request.name)
        if job.state not in ENDED:
            job.state = TrainingJob.STATE_CANCELLED
            self._record(job)
        return job

    async def WatchTrainingJob(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Streams the events of a job."""
        self._get(request.name)
        sequence = request.resume_after
        while True:
            changed = self._changed
            for job in self._events[request.name][sequence:]:
                sequence += 1
                yield training_service_pb2.WatchTrainingJobResponse(sequence=sequence, training_job=job)
                if job.state in ENDED:
                    return
            await changed.wait()

    async def close(self) -> None:
        """Stops all jobs."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _get(self, name: str) -> TrainingJob:
        if name not in self.jobs:
            raise NotFound(f"there is no training job '{name}'", reason="TRAINING_JOB_NOT_FOUND")
        return self.jobs[name]

    def _record(self, job: TrainingJob) -> None:
        snapshot = TrainingJob()
        snapshot.CopyFrom(job)
        self._events.setdefault(job.name, []).append(snapshot)
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self, name: str) -> None:
        job = self.jobs[name]
        await self._behaviour.enter(f"train-{name.rpartition('-')[2]}", [name])
        steps = self._behaviour.training_steps
        for step in range(1, steps + 1):
            if job.state in ENDED:
                return
            job.state = TrainingJob.STATE_RUNNING
            job.progress.completed_steps, job.progress.total_steps = step, steps
            job.progress.metrics["loss"] = 1 / step
            self._record(job)
            await asyncio.sleep(self._behaviour.delay_seconds)
        if job.state in ENDED:
            return
        error = self._behaviour.training_error
        job.state = TrainingJob.STATE_FAILED if error else TrainingJob.STATE_SUCCEEDED
        if error:
            job.error.CopyFrom(to_status(error))
        else:
            model = f"{name.partition('/trainingJobs/')[0]}/models/{job.spec.output_model_id}"
            # By its id, and not by counting: after a restart it is the same.
            number = name.rpartition("-")[2]
            job.model = f"{model}/versions/{number if number.isdigit() else 1}"
        self._record(job)


def add_models(server: Server, behaviour: Behaviour) -> None:
    """Adds refinement, critique and judge to a server."""
    for add, servicer, full_name in (
        (
            refinement_service_pb2_grpc.add_RefinementServiceServicer_to_server,
            NullRefinement(behaviour),
            "omnialign.v1.RefinementService",
        ),
        (
            critique_service_pb2_grpc.add_CritiqueServiceServicer_to_server,
            NullCritique(behaviour),
            "omnialign.v1.CritiqueService",
        ),
        (
            judge_service_pb2_grpc.add_JudgeServiceServicer_to_server,
            NullJudge(behaviour),
            "omnialign.v1.JudgeService",
        ),
    ):
        server.add(add, servicer, full_name)


def add_training(server: Server, training: NullTraining) -> None:
    """Adds the training service to a server."""
    server.add(
        training_service_pb2_grpc.add_TrainingServiceServicer_to_server, training, "omnialign.v1.TrainingService"
    )


def digest(*values: object) -> str:
    """A short text that depends on the values."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]


def malformed() -> OmnialignError:
    """The abstention of a model service that cannot read an answer."""
    return InvalidArgument("the answer has a broken image", reason="ANSWER_MALFORMED")


def too_long() -> OmnialignError:
    """The error of a model service for a prompt that is too long."""
    return FailedPrecondition("the prompt does not fit", reason="PROMPT_TOO_LONG")


def _outcome(behaviour: Behaviour, rpc: str, record_id: str) -> dict[str, Any] | None:
    error = behaviour.faults(rpc, record_id)
    return {"error": to_status(error)} if error is not None else None


def _response(request: Any, item: Any, words: str) -> record_pb2.Response:
    return record_pb2.Response(content=content(words), source=request.model, generation=_info(request, item))


def _info(request: Any, item: Any) -> generation_pb2.GenerationInfo:
    return generation_pb2.GenerationInfo(
        model=request.model,
        sampling=request.sampling,
        seed=item.seed,
        completion_tokens=TOKENS,
        finish_reason=generation_pb2.FINISH_REASON_END,
    )
