"""From the request that a person sends to a draft job with a plan: names resolved, defaults filled in, faults found."""

import functools
import uuid

from sqlalchemy import Connection

from omnialign import names
from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.v1.annotation_service_pb2 import Campaign, CreateDraftJobRequest
from services.annotation.drafting.drafts import Drafts
from services.annotation.drafting.job import DRAFT, Job, Spec, StageStatus, with_defaults
from services.annotation.store import Store
from services.inference.model_uri import is_endpoint_model
from services.pipeline.given_names import find_model
from services.pipeline.service import Pipeline
from services.pipeline.service_calls import ServiceClients

FIELD = "draft_job.spec"


async def create_draft_job(pipeline: Pipeline, request: CreateDraftJobRequest, *, token_budget: int) -> Job:
    """Submits a draft job; `token_budget` is that of a job whose spec has none.

    Raises NotFound for a campaign or model that does not exist, InvalidArgument for what cannot be used,
    FailedPrecondition (`DRAFTS_COMPLETE`) for a campaign that the model has drafted wholly, and what `Jobs.submit`
    raises.
    """
    if (earlier := await pipeline.jobs.find_request(request)) is not None:
        return earlier  # type: ignore[no-any-return]  # the pipeline knows no kind
    clients = await pipeline.clients.of(names.project_of(request.parent))
    plan = await _resolved(pipeline, request.draft_job.spec, clients, parent=request.parent)
    plan.token_budget = plan.token_budget or token_budget
    job = await pipeline.jobs.submit(request, _new_job(request, plan), plan)
    if plan.start_from:
        # Repeating the call returns the job above; so a process that dies in between leaves the campaign as it was.
        await Store(pipeline.store.database).change(plan.campaign, functools.partial(_start_from, model=plan.model))
    return job  # type: ignore[no-any-return]  # the pipeline knows no kind


async def _resolved(pipeline: Pipeline, spec: Spec, clients: ServiceClients, *, parent: str) -> Spec:
    plan = with_defaults(spec)
    names.parse(spec.campaign, names.CAMPAIGN, field=f"{FIELD}.campaign")
    if names.project_name_of(spec.campaign) != parent:
        raise _refused("campaign", f"must be in {parent}", reason="PROJECT_MISMATCH")
    campaign = await Store(pipeline.store.database).campaign(spec.campaign)
    plan.dataset = campaign.dataset_version
    plan.model = (await find_model(spec.model, clients, field=f"{FIELD}.model", parent=parent)).name
    if plan.sampling.deterministic and is_endpoint_model(plan.model):
        message = "must not be set for a model behind an endpoint, which cannot promise the same tokens again"
        raise _refused("sampling.deterministic", message, reason="ENDPOINT_NOT_DETERMINISTIC")
    if not await Drafts(pipeline.store.database).missing(campaign.name, model=plan.model):
        message = f"'{plan.model}' has drafted every pair of {campaign.name} already"
        metadata = {"campaign": campaign.name, "model": plan.model}
        raise FailedPrecondition(message, reason="DRAFTS_COMPLETE", metadata=metadata)
    return plan


def _new_job(request: CreateDraftJobRequest, plan: Spec) -> Job:
    uid = str(uuid.uuid4())
    job_id = request.draft_job_id or f"draft-{uid[:8]}"
    name = names.format_name(names.DRAFT_JOB, project=names.project_of(request.parent), draft_job=job_id)
    job = Job(name=name, uid=uid, spec=plan, state=Job.STATE_QUEUED, token_budget=plan.token_budget)
    job.stages.add(stage=DRAFT, state=StageStatus.STATE_PENDING)
    job.create_time.GetCurrentTime()
    job.update_time.CopyFrom(job.create_time)
    return job


def _start_from(connection: Connection, campaign: Campaign, *, model: str) -> None:
    campaign.start_from = model


def _refused(at: str, problem: str, *, reason: str) -> InvalidArgument:
    field = f"{FIELD}.{at}"
    return InvalidArgument(f"{field} {problem}", reason=reason, metadata={"field": at}, violations=[(field, problem)])
