"""The policy: who may call what.

Each RPC of the contract has one rule; a test compares the table with the contract. The field names the resource that
the call is about, and so the project whose roles count; in a client stream it is read from the first message.

The rules do not cover other names in a request: `references` finds those, and each requires the role reader.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from services.runtime.context import Role

Scope: TypeAlias = Literal["itself", "inputs", "project", "within"]


@dataclass(frozen=True)
class Rule:
    """What one RPC requires of its caller."""

    field: str
    """Path of the field with the resource's name, in the request or the first of its messages."""
    role: Role | None
    """Least role in the resource's project; None means that only a training job's own token is accepted."""
    mutates: bool = False
    """Whether a call changes something; then it is in the audit log."""
    job: Scope | None = None
    """What the field must name for a training job's token to be accepted: the job, an input of it, its project, or
    anything within its project. With the last, the other names in the request must be within it too, or be inputs."""


def _read(field: str, *, job: Scope | None = None) -> Rule:
    return Rule(field, Role.READER, job=job)


def _run(field: str) -> Rule:
    """Changes nothing, but costs time on an accelerator."""
    return Rule(field, Role.SUBMITTER, job="within")


def _write(field: str, *, role: Role = Role.SUBMITTER, job: Scope | None = None) -> Rule:
    return Rule(field, role, mutates=True, job=job)


def _job(field: str, *, mutates: bool) -> Rule:
    return Rule(field, None, mutates=mutates, job="itself")


_DATA = {
    "CreateDataset": _write("parent"),
    "GetDataset": _read("name", job="inputs"),
    "ListDatasets": _read("parent"),
    "UpdateDataset": _write("dataset.name", role=Role.ADMIN),  # one that expires is deleted
    "DeleteDataset": _write("name", role=Role.ADMIN),
    "AppendRecords": _write("dataset"),
    "CommitVersion": _write("dataset"),
    "GetDatasetVersion": _read("name", job="inputs"),
    "ListDatasetVersions": _read("parent"),
    "DeleteDatasetVersion": _write("name", role=Role.ADMIN),
    "StreamRecords": _read("source", job="inputs"),
    "ListRecords": _read("parent"),
    "StreamQuarantine": _read("dataset"),
    "UploadMedia": _write("header.parent"),
    "UploadManyMedia": _write("header.parent"),
    "GetMedia": _read("parent", job="project"),
    "ReadMedia": _read("parent", job="project"),
    "CreateMediaUpload": _write("parent"),
    "CompleteMediaUpload": _write("name"),
    "CreateMediaDownload": _read("parent"),
    "UploadFiles": _write("header.parent"),
    "GetUploadProgress": _read("parent"),
    "ImportDataset": _write("parent"),
    "DeriveDataset": _write("parent"),
    "CompareDatasets": _read("source"),
    "GetDatasetStatistics": _read("name"),
    "ExportDataset": _write("name"),
    "DownloadExport": _read("name"),
    "RegisterModel": _write("parent"),
    "GetModelVersion": _read("name", job="inputs"),
    "DeleteModelVersion": _write("name", role=Role.ADMIN),
    "DownloadModel": _read("name", job="inputs"),
    "ListModelVersions": _read("parent"),
    "AddLineage": _write("parent"),
    "GetLineage": _read("name"),
    "BeginUse": _write("user", role=Role.ADMIN),  # for our own services: whoever may end a use may delete
    "EndUse": _write("user", role=Role.ADMIN),
    "CollectGarbage": _write("parent", role=Role.ADMIN),
}
_REFINEMENT = {"Generate": _run("model"), "Refine": _run("model")}
_POLICY = {
    "OpenPolicy": _write("parent", job="within"),
    "UpdatePolicy": _write("header.name", job="within"),
    "GetPolicy": _read("name", job="within"),
    "ClosePolicy": _write("name", job="within"),
}
_CRITIQUE = {"Critique": _run("model")}
_JUDGE = {
    "ScoreResponse": _run("model"),
    "CompareResponses": _run("model"),
    "ComputeRewards": _run("model"),
    "ScoreUnderstanding": _run("model"),
    "ScoreGeneration": _run("model"),
    "AnswerQuestions": _run("model"),
}
_TRAINING = {
    "CreateTrainingJob": _write("parent"),
    "GetTrainingJob": _read("name"),
    "ListTrainingJobs": _read("parent"),
    "CancelTrainingJob": _write("name"),
    "WatchTrainingJob": _read("name"),
    "StreamTrainingLog": _read("name"),
    "ReportProgress": _job("name", mutates=False),  # a heartbeat: an audit line each would bury the others
    "DeliverModel": _job("header.name", mutates=True),
}
_ALIGNMENT = {
    "CreateAlignmentJob": _write("parent"),
    "GetAlignmentJob": _read("name"),
    "ListAlignmentJobs": _read("parent"),
    "PauseAlignmentJob": _write("name"),
    "ResumeAlignmentJob": _write("name"),
    "CancelAlignmentJob": _write("name"),
    "DeleteAlignmentJob": _write("name", role=Role.ADMIN),
    "WatchAlignmentJob": _read("name"),
    "GetAlignmentReport": _read("name"),
    "ListPairReviews": _read("parent"),
    "ReviewPair": _write("name"),
}
_EVALUATION = {
    "CreateEvaluation": _write("parent"),
    "GetEvaluation": _read("name"),
    "ListEvaluations": _read("parent"),
    "PauseEvaluation": _write("name"),
    "ResumeEvaluation": _write("name"),
    "CancelEvaluation": _write("name"),
    "DeleteEvaluation": _write("name", role=Role.ADMIN),
    "WatchEvaluation": _read("name"),
    "GetEvaluationReport": _read("name"),
    "CompareEvaluations": _read("name"),
    "GetComparisonReport": _read("comparison.name"),
}
_ANNOTATION = {
    "CreateCampaign": _write("parent"),
    "GetCampaign": _read("name"),
    "ListCampaigns": _read("parent"),
    "UpdateCampaign": _write("campaign.name"),
    "CloseCampaign": _write("name"),
    "ReopenCampaign": _write("name"),
    "DeleteCampaign": _write("name", role=Role.ADMIN),
    "LeaseTask": _write("parent", role=Role.ANNOTATOR),
    "SaveDraft": Rule("name", Role.ANNOTATOR),  # every few seconds: an audit line each would bury the others
    "SubmitTask": _write("name", role=Role.ANNOTATOR),
    "SkipTask": _write("name", role=Role.ANNOTATOR),
    "FlagTask": _write("name", role=Role.ANNOTATOR),
    "ImportAnnotations": _write("parent"),
    "ListItems": Rule("parent", Role.SUBMITTER),  # annotators must not see what others wrote
    "GetItem": Rule("name", Role.SUBMITTER),
    "AdjudicateItem": _write("name"),
    "GetAgreement": _read("name"),
    "CommitCampaign": _write("name"),
    "GetModelAgreement": _read("name"),
    "CreateDraftJob": _write("parent"),
    "GetDraftJob": _read("name"),
    "ListDraftJobs": _read("parent"),
    "PauseDraftJob": _write("name"),
    "ResumeDraftJob": _write("name"),
    "CancelDraftJob": _write("name"),
    "DeleteDraftJob": _write("name", role=Role.ADMIN),
    "WatchDraftJob": _read("name"),
}

POLICY: Mapping[str, Rule] = {
    f"/omnialign.v1.{service}/{method}": rule
    for service, methods in (
        ("DataService", _DATA),
        ("RefinementService", _REFINEMENT),
        ("PolicyService", _POLICY),
        ("CritiqueService", _CRITIQUE),
        ("JudgeService", _JUDGE),
        ("TrainingService", _TRAINING),
        ("AlignmentService", _ALIGNMENT),
        ("EvaluationService", _EVALUATION),
        ("AnnotationService", _ANNOTATION),
    )
    for method, rule in methods.items()
}
"""The rule of each RPC by its path on the wire."""
