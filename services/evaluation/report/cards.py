"""Items as pages show them: the prompt once, what people said, each answer beside the others, and the judges' words.

Every text on a page came from a model or a data set and is untrusted: the templates escape all of it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from omnialign.content import asked_of, text_of
from omnialign.v1 import content_pb2, record_pb2
from services.evaluation.benchmarks import BENCHMARKS
from services.evaluation.works import ABLATED, BASELINE, BENCHMARK, JUDGE, MODEL, group_of, item_of, number_of
from services.pipeline.kind import Record
from services.pipeline.pages import messages
from services.pipeline.pages.pictures import Picture

Item = Sequence[Record]
"""The records of one item of one benchmark: of each model, each judge, and without the modality that is removed."""


def by_item(records: Iterable[Record]) -> list[Item]:
    """The records of each item together."""
    items: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        items.setdefault((record.labels[BENCHMARK], item_of(record)), []).append(record)
    return list(items.values())


def choose(items: Iterable[Item], key: Callable[[Item], float], *, parts: Sequence[str], limit: int) -> list[Item]:
    """At most `limit` items of each group of each benchmark, those of the lowest key, in the order of `parts`, the
    benchmarks' ids, and of the key."""
    seen, chosen = Counter[tuple[str, str]](), list[Item]()
    for item in sorted(items, key=lambda item: (parts.index(item[0].labels[BENCHMARK]), key(item), item_of(item[0]))):
        group = (item[0].labels[BENCHMARK], group_of(item[0]))
        seen[group] += 1
        if seen[group] <= limit:
            chosen.append(item)
    return chosen


def media_of(items: Iterable[Item]) -> dict[str, content_pb2.Media]:
    """The media that the items show, by digest, in the order in which they are shown."""
    return messages.media_of(
        content
        for item in items
        for content in (*asked_of(item[0]), *(response.content for record in item for response in record.responses))
    )


def share(record: Record) -> float | None:
    """The mean score of a record as a share of the best one; None if nothing was scored."""
    kind = kind_of(record)
    found = [
        a.score
        for a in record.responses[-1].assessments
        if not a.abstain_reason and kind.main in ("", kind.measure(a.aspect))
    ]
    return sum(found) / len(found) / kind.top if found else None


def kind_of(record: Record) -> Any:
    """The benchmark that a record belongs to."""
    return BENCHMARKS[record.labels[BENCHMARK].partition("-")[0]]


def worst(item: Item) -> float:
    """The lowest share of an item: sorts the worst items first, and those without any score last."""
    return min((found for found in map(share, item) if found is not None), default=2.0)


def card(item: Item, contenders: Sequence[str], pictures: Mapping[str, Picture]) -> dict[str, Any]:
    """One item for the template; `contenders` are the models in order of their numbers."""
    first, asked = item[0], item[0].benchmark_item
    return {
        "id": item_of(first),
        "part": first.labels[BENCHMARK],
        "group": group_of(first),
        "worst": worst(item),
        "shares": shares(item),
        "history": messages.earlier(first, pictures),
        "prompt": messages.pieces(first.prompt, pictures),
        "references": [_reference(reference) for reference in asked.references],
        "questions": [] if kind_of(first).main == "following" else [_question(one) for one in asked.questions],
        "votes": sorted(asked.selection_shares.items(), key=lambda vote: -vote[1]),
        "sides": _sides(item, contenders, pictures),
        "verdicts": [_verdict(record, contenders) for record in item if len(record.responses) > 1],
    }


def shares(item: Item) -> dict[int, float]:
    """The share of each model, the mean over judges, for the whole prompt."""
    found: dict[int, list[float]] = {}
    for record in item:
        number, reached = number_of(record, MODEL), share(record)
        if number and reached is not None and ABLATED not in record.labels:
            found.setdefault(number, []).append(reached)
    return {number: sum(reached) / len(reached) for number, reached in found.items()}


def _reference(reference: record_pb2.ReferenceAnswer) -> dict[str, Any]:
    terms = {name: list(found.terms) for name, found in sorted(reference.key_terms.items()) if found.terms}
    return {"answer": messages.text_piece(reference.answer), "terms": terms}


def _question(question: record_pb2.MultipleChoiceQuestion) -> dict[str, Any]:
    return {"question": question.question, "choices": list(question.choices), "correct": question.correct}


def _sides(item: Item, contenders: Sequence[str], pictures: Mapping[str, Picture]) -> list[dict[str, Any]]:
    """Each answer once, with what every judge made of it; those to shortened prompts after the whole ones."""
    sides: dict[tuple[str, int], dict[str, Any]] = {}
    for record in item:
        for place, response in enumerate(record.responses, start=1):
            number = _writer(record, place)
            side = sides.setdefault(
                (record.labels.get(ABLATED, ""), number or place),
                {
                    "number": number,
                    "title": contenders[number - 1] if number else f"answer {place}",
                    "preferred": not number and record.preference.preferred == place,
                    "without": record.labels.get(ABLATED, ""),
                    "pieces": messages.pieces(response.content, pictures),
                    "told": [messages.text_piece(text_of(made.content)) for made in response.made_of[:1]],
                    "verdicts": [],
                },
            )
            if len(record.responses) == 1:
                side["verdicts"].append(_verdict(record, contenders))
    return [sides[key] for key in sorted(sides)]


def _writer(record: Record, place: int) -> int:
    """The number of the model that wrote a response; 0 if none under test did."""
    is_baseline = BASELINE in record.labels and place == 1
    return number_of(record, BASELINE if is_baseline else MODEL)


def _verdict(record: Record, contenders: Sequence[str]) -> dict[str, Any]:
    """What one judge, or a rule, made of an answer or of a pair of them."""
    kind, found = kind_of(record), record.responses[-1].assessments
    model, baseline = (number_of(record, label) for label in (MODEL, BASELINE))
    return {
        "judge": next((a.judge for a in found if a.judge), "") if JUDGE in record.labels else "",
        "about": f"{contenders[model - 1]} against {contenders[baseline - 1]}" if baseline else "",
        "top": kind.top,
        "rows": [
            {
                "name": kind.measure(a.aspect),
                "score": None if a.abstain_reason else a.score,
                "abstained": a.abstain_reason,
                "words": messages.text_piece(a.rationale) if a.rationale else None,
                "is_main": kind.main == kind.measure(a.aspect),
            }
            for a in found
        ],
    }
