"""What `fedquant reproduce` knows, and where what it found is kept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedquant import reproduce
from fedquant.errors import ConfigError
from fedquant.reproduce import dqgd

DOCS = Path(__file__).parents[2] / "docs"


def test_a_report_ends_with_date_and_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(out: Path, **_: object) -> Path:
        path = out / "report.md"
        path.write_text("# Found\n", encoding="utf-8")
        return path

    monkeypatch.setattr(dqgd, "run", run)
    text = reproduce.reproduce("dqgd-fig3", tmp_path).read_text(encoding="utf-8")
    assert re.fullmatch(
        r"# Found\n\nMeasured \d{4}-\d\d-\d\d \d\d:\d\d UTC: .+, \d+ cores, .+, Python 3.+\.\n", text
    )


def test_matplotlib_is_asked_for_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ConfigError("pictures need matplotlib")

    monkeypatch.setattr(reproduce, "pyplot", missing)
    monkeypatch.setattr(dqgd, "run", lambda *_, **__: pytest.fail("it began"))
    with pytest.raises(ConfigError, match="matplotlib"):
        reproduce.reproduce("dqgd-fig3", tmp_path)


def test_an_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown experiment 'dqgd-fig4'.*dqgd-fig3"):
        reproduce.reproduce("dqgd-fig4", tmp_path)
    with pytest.raises(ConfigError, match="takes no matrix"):
        reproduce.reproduce("qcs-fig3", tmp_path, matrix=tmp_path)


@pytest.mark.skipif(not DOCS.is_dir(), reason="docs are in the repository only")
@pytest.mark.parametrize("name", reproduce.EXPERIMENTS)
def test_every_experiment_has_an_entry_and_a_report(name: str) -> None:
    index = (DOCS / "reproduction.md").read_text(encoding="utf-8")
    assert f"fedquant reproduce {name}" in index
    assert f"(reproduce/{name}.md)" in index
    report = (DOCS / "reproduce" / f"{name}.md").read_text(encoding="utf-8")
    assert f"fedquant reproduce {name}" in report
    assert re.search(r"^Measured \d{4}-\d\d-\d\d", report, re.MULTILINE)
