import json
import os
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from omnialign.cli.main import app
from omnialign.cli.state import StackState, default_root, find_address, read_state, remove_state, write_state
from omnialign.errors import FailedPrecondition
from tests.processes import free_port

COMMANDS = [
    ("up",), ("demo",), ("lineage",), ("data", "import"), ("data", "list"), ("data", "show"), ("data", "export"),
    ("jobs", "submit"), ("jobs", "list"), ("jobs", "show"), ("jobs", "watch"), ("jobs", "pause"), ("jobs", "resume"),
    ("jobs", "cancel"), ("jobs", "report"), ("jobs", "reviews"), ("jobs", "review"),
    ("models", "list"), ("models", "show"), ("models", "register"),
]  # fmt: skip


def test_the_version_is_printed():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("omnialign 0.")


@pytest.mark.parametrize("words", COMMANDS, ids="-".join)
def test_every_command_has_help_and_a_json_form(words):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_help_loads_neither_grpc_nor_rich_tables_nor_any_service():
    code = (
        "import sys; from omnialign.cli.main import app;"
        "heavy = {'grpc', 'google.protobuf', 'numpy', 'torch', 'services', 'rich.table'};"
        "print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "set()"


def test_importing_the_command_takes_little_processor_time():
    started = time.process_time(), os.times().children_user
    subprocess.run([sys.executable, "-c", "import omnialign.cli.main"], timeout=30, check=True)
    assert os.times().children_user - started[1] < 1.0


def test_a_refused_connection_is_one_sentence_with_its_mend():
    address = f"127.0.0.1:{free_port()}"
    result = CliRunner().invoke(app, ["jobs", "list", "--address", address])
    assert result.exit_code == 1
    assert f"There is no omnialign server at {address}; start one with `omnialign up`." in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_errors_are_json_for_machines():
    result = CliRunner().invoke(app, ["jobs", "list", "--json", "--address", f"127.0.0.1:{free_port()}"])
    assert json.loads(result.stderr)["error"]["reason"] == "SERVER_UNREACHABLE"


def test_without_any_server_known_the_sentence_says_how_to_start_one(tmp_path):
    result = CliRunner(env={"OMNIALIGN_ROOT": str(tmp_path), "OMNIALIGN_ADDRESS": ""}).invoke(app, ["data", "list"])
    assert result.exit_code == 1
    assert "start one with `omnialign up`" in result.stderr


def test_wrong_usage_ends_with_status_two():
    assert CliRunner().invoke(app, ["jobs", "show"]).exit_code == 2
    assert CliRunner().invoke(app, ["nonsense"]).exit_code == 2


def test_the_address_is_looked_for_in_order(tmp_path):
    write_state(tmp_path, StackState("127.0.0.1:1", process_id=7))
    by_state = {"OMNIALIGN_ROOT": str(tmp_path)}
    assert find_address(None, environ=by_state) == "127.0.0.1:1"
    assert find_address(None, environ=by_state | {"OMNIALIGN_ADDRESS": "b:2"}) == "b:2"
    assert find_address("a:3", environ=by_state | {"OMNIALIGN_ADDRESS": "b:2"}) == "a:3"
    assert read_state(tmp_path) == StackState("127.0.0.1:1", process_id=7)
    remove_state(tmp_path)
    with pytest.raises(FailedPrecondition, match="omnialign up") as caught:
        find_address(None, environ=by_state)
    assert caught.value.reason == "SERVER_NOT_FOUND"


def test_a_state_file_of_another_form_counts_as_none(tmp_path):
    (tmp_path / "server.json").write_text("[]")
    assert read_state(tmp_path) is None


def test_the_default_root_follows_the_user_s_data_directory(tmp_path):
    assert default_root({"XDG_DATA_HOME": str(tmp_path)}) == tmp_path / "omnialign"
