"""Reading the configuration: all types, all problems."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from services.runtime.config import ConfigError, ServerConfig, load, load_all


@dataclass(frozen=True)
class Example:
    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_EXAMPLE_"

    root: Path
    address: str
    limit: int = 3
    ratio: float = 0.5
    verbose: bool = False
    port: int | None = None
    mode: Literal["fast", "exact"] = "fast"
    names: tuple[str, ...] = ()

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.limit < 0:
            yield "limit", "must be 0 or more"
        if self.ratio > 1:
            yield "ratio", "must be 1 or less"


def environ(**values: str) -> dict[str, str]:
    return {f"OMNIALIGN_EXAMPLE_{key.upper()}": value for key, value in values.items()}


def test_every_type_is_read():
    config = load(
        Example,
        environ(root="/r", address="a:1", limit="7", ratio="0.25", verbose="Yes", port="", mode="exact", names="x, y"),
    )
    assert config == Example(Path("/r"), "a:1", 7, 0.25, True, None, "exact", ("x", "y"))


def test_defaults_hold_when_nothing_is_set():
    assert load(Example, environ(root="/r", address="a")) == Example(Path("/r"), "a")


def test_every_problem_is_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        load(Example, environ(limit="many", ratio="x", verbose="maybe", mode="slow", lmit="3"))
    found = {variable.removeprefix("OMNIALIGN_EXAMPLE_") for variable, _ in caught.value.problems}
    assert found == {"ROOT", "ADDRESS", "LIMIT", "RATIO", "VERBOSE", "MODE", "LMIT"}
    assert all(variable in str(caught.value) for variable in found)


def test_rules_of_the_class_are_listed_beside_unreadable_fields():
    with pytest.raises(ConfigError) as caught:
        load(Example, environ(root="/r", address="a", limit="-1", ratio="2", port="x"))
    assert {variable for variable, _ in caught.value.problems} == set(environ(limit="", ratio="", port=""))


def test_variables_that_kubernetes_injects_are_let_through():
    links = environ(
        service_host="10.0.0.1", service_port="1", service_port_grpc="1", port_50051_tcp_addr="10.0.0.1", a_port="x"
    )
    assert load(Example, {**environ(root="/r", address="a"), **links})


def test_problems_of_several_classes_come_together():
    with pytest.raises(ConfigError) as caught:
        load_all(ServerConfig, Example, environ={"OMNIALIGN_SERVER_PORT": "70000"})
    assert [variable for variable, _ in caught.value.problems] == [
        "OMNIALIGN_SERVER_PORT",
        "OMNIALIGN_EXAMPLE_ROOT",
        "OMNIALIGN_EXAMPLE_ADDRESS",
    ]
