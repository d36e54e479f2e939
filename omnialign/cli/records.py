"""Records as text on a terminal."""

from collections.abc import Iterator

from omnialign.content import NAMES, ROLES
from omnialign.v1 import content_pb2, record_pb2

VERDICTS = {
    record_pb2.VERDICT_WIN: "the second is better",
    record_pb2.VERDICT_TIE: "tie",
    record_pb2.VERDICT_LOSS: "the first is better",
    record_pb2.VERDICT_ABSTAIN: "abstained",
}


def record_text(record: record_pb2.Record) -> str:
    """A record in a few lines: prompt, responses with their feedback, preference, verdict, labels."""
    return "\n".join(_lines(record)) + "\n"


def content_text(content: content_pb2.Content) -> str:
    """A message with each medium as `[image sha256:0123456789ab, 1,234 bytes]`."""
    return " ".join(_part(part) for part in content.parts) or "(empty)"


def _part(part: content_pb2.Part) -> str:
    if part.WhichOneof("part") == "text":
        return part.text
    kind = NAMES.get(part.media.modality, "media")
    return f"[{kind} sha256:{part.media.sha256[:12]}, {part.media.size_bytes:,} bytes]"


def _lines(record: record_pb2.Record) -> Iterator[str]:
    yield f"■ {record.id}  {record.subtask}  {record.split}".rstrip()
    for earlier in record.history:
        yield f"  {ROLES[earlier.role]:<12}{_indented(content_text(earlier.content))}"
    yield f"  prompt      {_indented(content_text(record.prompt))}"
    for number, response in enumerate(record.responses, start=1):
        yield f"  response {number}  {_indented(content_text(response.content))}"
        yield from _feedback(response.feedback)
    if record.HasField("preference"):
        yield f"  preferred   {record.preference.preferred}  {_indented(record.preference.reason)}".rstrip()
    if record.HasField("comparison"):
        yield f"  judge       {VERDICTS.get(record.comparison.verdict, '')} {record.comparison.abstain_reason}".rstrip()
    if record.labels:
        yield "  labels      " + ", ".join(f"{key}={value}" for key, value in sorted(record.labels.items()))
    if record.HasField("quarantine"):
        yield f"  quarantined {record.quarantine.reason} in {record.quarantine.stage}: {record.quarantine.message}"


def _feedback(feedback: record_pb2.Feedback) -> Iterator[str]:
    if feedback.scores:
        yield "    scores    " + ", ".join(f"{s.dimension} {s.score}" for s in feedback.scores)
    if feedback.critique:
        yield f"    critique  {_indented(feedback.critique)}"
    if feedback.refinement:
        yield f"    advice    {_indented(feedback.refinement)}"


def _indented(text: str) -> str:
    return text.replace("\n", "\n" + " " * 14)
