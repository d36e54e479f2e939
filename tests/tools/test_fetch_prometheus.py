"""Prometheus is taken from the path, or fetched, or its absence is one sentence."""

from pathlib import Path

import pytest

from tools import fetch_prometheus


@pytest.fixture
def empty(monkeypatch, tmp_path) -> Path:
    """A machine without Prometheus and without apt."""
    monkeypatch.setattr(fetch_prometheus, "FOLDER", tmp_path / "tools" / "prometheus")
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    return programs


def program(path: Path, script: str = "") -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_programs_on_the_path_are_used(empty):
    for name in fetch_prometheus.NAMES:
        program(empty / name)
    assert fetch_prometheus.fetch() == (empty / "prometheus", empty / "promtool")


def test_without_apt_the_error_names_the_mend(empty):
    with pytest.raises(fetch_prometheus.Unavailable, match=r"no apt-get to fetch.*Install Prometheus"):
        fetch_prometheus.fetch()


def test_a_failed_download_says_why_and_leaves_nothing(empty):
    program(empty / "apt-get", "echo 'no network' >&2; exit 100")
    program(empty / "dpkg-deb")
    with pytest.raises(fetch_prometheus.Unavailable, match="no network"):
        fetch_prometheus.fetch()
    assert list(fetch_prometheus.FOLDER.parent.iterdir()) == []


def test_package_lists_are_brought_up_to_date_once_and_the_package_is_unpacked(empty):
    program(empty / "apt-get", f'if [ "$1" = update ]; then > {empty}/lists; else [ -e {empty}/lists ] && > p.deb; fi')
    program(empty / "dpkg-deb", '/bin/mkdir -p "$3/usr/bin"; > "$3/usr/bin/prometheus"; > "$3/usr/bin/promtool"')
    found = fetch_prometheus.fetch()
    assert found.promtool == fetch_prometheus.FOLDER / "usr" / "bin" / "promtool"
    assert found == fetch_prometheus.find()
