"""The resource names in a request: each must be of a project that the caller may see.

Services do their work with their own identity, which may read everything. So the service that takes a request from a
person must make sure that nothing in it names what that person may not see: a job over another team's dataset would
reveal it in its report. Every text field of a request counts as a reference unless it is listed here as plain, so that
a new field is checked by default.

What is stored as data is plain: prompts, answers, feedback, records with the provenance they carry.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_V1 = "omnialign.v1."

PLAIN_MESSAGES = frozenset(
    {
        f"{_V1}Annotation",
        f"{_V1}Content",
        f"{_V1}Feedback",
        f"{_V1}Record",
        f"{_V1}RecordFilter",
        f"{_V1}ReferenceAnswer",
        f"{_V1}Rubric",
        f"{_V1}SamplingParams",
        f"{_V1}TrainingProgress",
        f"{_V1}UploadedFile",
        "google.protobuf.FieldMask",
        "google.rpc.Status",
    }
)
PLAIN_FIELDS = frozenset(
    {
        f"{_V1}CritiqueItem.id",
        f"{_V1}CritiqueItem.rubric",
        f"{_V1}CritiqueItem.subtask",
        f"{_V1}CompareItem.id",
        f"{_V1}CompareItem.subtask",
        f"{_V1}GenerateItem.id",
        f"{_V1}GenerateRequest.json_schema",
        f"{_V1}GenerationItem.id",
        f"{_V1}RefineItem.id",
        f"{_V1}QuestionItem.id",
        f"{_V1}QuestionItem.question",
        f"{_V1}QuestionItem.choices",
        f"{_V1}RewardTerm.checker",
        f"{_V1}UnderstandingItem.id",
        f"{_V1}UnderstandingItem.category",
        f"{_V1}ListRecordsRequest.start_id",
        f"{_V1}SplitShare.split",
        f"{_V1}ReadMediaRequest.sha256s",
        f"{_V1}StreamRecordsRequest.after_id",
        f"{_V1}StreamRecordsRequest.ids",
        f"{_V1}Adjudication.adjudicator",
        f"{_V1}Adjudication.annotator",
        f"{_V1}Adjudication.reason",
        f"{_V1}AdjudicateItemRequest.adjudicator",
        f"{_V1}Campaign.annotators",
        f"{_V1}Campaign.display_name",
        f"{_V1}Campaign.instructions",
        f"{_V1}Campaign.quality_label",
        f"{_V1}FlagTaskRequest.annotator",
        f"{_V1}FlagTaskRequest.reason",
        f"{_V1}ImportAnnotationsRequest.file_sha256",
        f"{_V1}ImportAnnotationsRequest.tool",
        f"{_V1}ImportedAnnotation.annotator",
        f"{_V1}LabelMatch.key",
        f"{_V1}LabelMatch.value",
        f"{_V1}LeaseTaskRequest.annotator",
        f"{_V1}SaveDraftRequest.annotator",
        f"{_V1}SkipTaskRequest.annotator",
        f"{_V1}SkipTaskRequest.reason",
        f"{_V1}SubmitTaskRequest.annotator",
        f"{_V1}Dataset.display_name",
        f"{_V1}ModelVersion.display_name",
        f"{_V1}DownloadModelRequest.skip_paths",
        f"{_V1}TrainingJob.log_tail",
        f"{_V1}PreflightReport.warnings",
        f"{_V1}EvaluationPreflight.warnings",
    }
)
LOCATIONS = frozenset(
    {
        f"{_V1}GenerateRequest.model",
        f"{_V1}RefineRequest.model",
        f"{_V1}OpenPolicyRequest.base_model",
        f"{_V1}CritiqueRequest.model",
        f"{_V1}ScoreResponseRequest.model",
        f"{_V1}CompareResponsesRequest.model",
        f"{_V1}ComputeRewardsRequest.model",
        f"{_V1}ScoreUnderstandingRequest.model",
        f"{_V1}ScoreGenerationRequest.model",
        f"{_V1}AnswerQuestionsRequest.model",
        f"{_V1}AlignmentSpec.base_model",
        f"{_V1}AlignmentSpec.feedback_model",
        f"{_V1}AlignmentSpec.judge_model",
        f"{_V1}EvaluationSpec.models",
        f"{_V1}BenchmarkJudge.model",
        f"{_V1}DraftSpec.model",
        f"{_V1}Campaign.start_from",
        f"{_V1}MediaGenerator.model",
        f"{_V1}Benchmark.baseline",
        f"{_V1}CompareEvaluationsRequest.model",
        f"{_V1}CompareEvaluationsRequest.baseline_model",
        f"{_V1}TrainingSpec.base_model",
        f"{_V1}RewardTerm.reward_model",
        f"{_V1}RewardTerm.judge",
        f"{_V1}RewardTerm.critic",
        f"{_V1}ModelVersion.uri",
        f"{_V1}ImportDatasetRequest.source_uri",
    }
)
"""Fields that may hold a location outside of the projects instead of a name: a folder of the server, an address."""

Reference: TypeAlias = tuple[str, bool]
Reader: TypeAlias = Callable[[Any], Iterator[Reference]]


def find_references(message: Message) -> Iterator[Reference]:
    """(text, whether it is in one of LOCATIONS) of every field that may name a resource, empty ones left out."""
    descriptor: Any = message.DESCRIPTOR
    reader = _reader(descriptor)
    return iter(()) if reader is None else reader(message)


def looks_like_resource(text: str) -> bool:
    """Whether `text` begins as a resource name does."""
    return text.startswith("projects/")


_readers: dict[str, Reader | None] = {}


def _reader(descriptor: Descriptor) -> Reader | None:
    """The reader of a message type's references; None for a type that can hold none. Made once per type."""
    name = descriptor.full_name
    if name not in _readers:
        _readers[name] = _make_reader(descriptor)
    return _readers[name]


def _make_reader(descriptor: Descriptor) -> Reader | None:
    texts = [(f.name, f.is_repeated, f.full_name in LOCATIONS) for f in descriptor.fields if _may_refer(f)]
    messages = [
        (field.name, field.is_repeated, reader)
        for field in descriptor.fields
        if (kind := _followed(field)) is not None and (reader := _reader(kind)) is not None
    ]
    if not texts and not messages:
        return None

    def read(message: Any) -> Iterator[Reference]:
        for name, repeated, is_location in texts:
            value = getattr(message, name)
            for text in value if repeated else (value,):
                if text:
                    yield text, is_location
        for name, repeated, reader in messages:
            if repeated:
                for item in getattr(message, name):
                    yield from reader(item)
            elif message.HasField(name):
                yield from reader(getattr(message, name))

    return read


def _may_refer(field: FieldDescriptor) -> bool:
    return field.type == FieldDescriptor.TYPE_STRING and field.full_name not in PLAIN_FIELDS


def _followed(field: FieldDescriptor) -> Descriptor | None:
    """The type of a message field that may hold references. Maps (labels, metrics) are plain."""
    kind = field.message_type
    if kind is None or kind.full_name in PLAIN_MESSAGES or kind.GetOptions().map_entry:
        return None
    return kind
