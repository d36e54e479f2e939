"""Names of the tables that a job writes."""

SAMPLE, CRITIQUE, REFINE, VERIFY = "sample", "critique", "refine", "verify"
LOOP_STAGES = (SAMPLE, CRITIQUE, REFINE, VERIFY)
PAIRS, QUARANTINE, FEEDBACK, JUDGEMENT = "pairs", "quarantine", "feedback", "judgement"
ANSWERS_BASE, ANSWERS_ALIGNED, EVALUATION = "answers-base", "answers-aligned", "evaluation"
EVALUATION_STEPS = (ANSWERS_BASE, ANSWERS_ALIGNED, EVALUATION)


def table(job_name: str, purpose: str) -> str:
    """Name of the dataset that holds one purpose of a job: `.../alignmentJobs/j` -> `.../datasets/j-sample`."""
    project, _, job_id = job_name.partition("/alignmentJobs/")
    return f"{project}/datasets/{job_id}-{purpose}"
