"""Log lines as JSON."""

import json
import logging

from omnialign.client.context import CURRENT_CALL, Call
from omnialign.errors import Unavailable
from services.runtime.logs import JsonFormatter, Recurring


def line(**record: object) -> dict[str, object]:
    return json.loads(JsonFormatter().format(logging.makeLogRecord(record)))


def test_a_line_has_message_level_and_extras():
    found = line(name="a.b", levelname="INFO", msg="took %d", args=(3,), job="j")
    assert (found["logger"], found["level"], found["message"], found["job"]) == ("a.b", "INFO", "took 3", "j")


def test_a_line_inside_a_call_has_its_request_id():
    token = CURRENT_CALL.set(Call("r-1", None, "", None))
    try:
        assert line(msg="x")["request_id"] == "r-1"
    finally:
        CURRENT_CALL.reset(token)
    assert "request_id" not in line(msg="x")


def test_a_traceback_stays_on_one_line():
    try:
        raise ValueError("bad\nvalue")
    except ValueError as error:
        text = JsonFormatter().format(
            logging.makeLogRecord({"msg": "x", "exc_info": (type(error), error, error.__traceback__)})
        )
    assert "\n" not in text
    assert "bad\nvalue" in json.loads(text)["exception"]


def test_a_problem_of_repeated_work_is_logged_when_it_begins_changes_and_ends(caplog):
    caplog.set_level("INFO")
    rounds = Recurring(logging.getLogger("rounds"))
    for problem in (Unavailable("away"), Unavailable("away"), Unavailable("full"), KeyError("bug")):
        rounds.failed("the round", problem)
    rounds.succeeded("the round")
    rounds.succeeded("the round")
    assert [(r.levelname, r.getMessage(), bool(r.exc_info)) for r in caplog.records] == [
        ("WARNING", "the round failed and will be tried again: away", False),
        ("WARNING", "the round failed and will be tried again: full", False),
        ("ERROR", "the round failed and will be tried again: 'bug'", True),
        ("INFO", "the round works again", False),
    ]
