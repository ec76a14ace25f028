"""The board of a real home and registry: what it reads of them, what it says where they lack something, who writes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.files import write_json
from bertft_core.base.home import board_file
from bertft_core.config.store import load_mlflow_config
from bertft_core.recipe.board.writing import read_board, refresh_board, write_board
from bertft_core.recipe.nights.log import FAILED, KEPT, PROMOTED, SKIPPED, Night, NightLog, OpenNight
from bertft_core.recipe.nights.record import as_markdown
from bertft_core.registry import aliases, ledger, overrides
from bertft_core.reporting.board.page import BoardPage, ModelCard

pytestmark = pytest.mark.orchestration
MODEL = "letters"


def record(store: Any, action: str, version: str, champion: str | None, to: str | None, **more: Any) -> None:
    reason = more.pop("reason", "because")
    made = ledger.Draft(action=action, version=version, champion=champion, to_version=to, reason=reason, **more)
    ledger.write(store, MODEL, made)


def numbers(store: Any, mine: float, theirs: float | None = None, **more: Any) -> dict[str, Any]:
    """What the gate would keep of a comparison on 400 rows."""
    found = {"metric": "macro_f1", "n": 400, "challenger_score": mine, "alpha": store.config.promotion.alpha, **more}
    if theirs is not None:
        gain = round(mine - theirs, 4)
        found |= {"champion_score": theirs, "difference": gain, "interval": [gain - 0.03, gain + 0.03]}
    return found


def add_night(store: Any, day: int, outcome: str, reason: str = "because", name: str = MODEL, **more: Any) -> None:
    log, date = NightLog(Path(store.home), name), f"2026-03-{day:02d}"
    log.folder.mkdir(exist_ok=True)
    log.add(Night(night=date, started=f"{date}T02:30:00+00:00", outcome=outcome, reason=reason, seconds=9.0, **more))


def only(page: BoardPage) -> ModelCard:
    (card,) = page.models
    return card


@pytest.fixture
def store(shelf: Any) -> Any:
    """Version 1 was champion, version 2 is, by comparisons with numbers."""
    made = shelf()
    record(made, "promoted", "1", None, "1", numbers=numbers(made, 0.70))
    record(made, "promoted", "2", "1", "2", numbers=numbers(made, 0.80, 0.70), by="mara@desk")
    return made


def test_champion_with_its_day_its_score_and_what_the_rows_can_show(store: Any) -> None:
    card = only(read_board(store))
    entry = ledger.read(store, MODEL)[-1]
    assert card.champion is not None and card.power is not None
    assert (card.champion.version, card.champion.since, card.champion.by) == ("2", entry.at, "mara@desk")
    assert (card.champion.score, card.metric) == (0.80, "macro F1")
    # 0.03 is half a 95 % interval; a decision has an error of 0.05 / 30: z 2.935, and 0.842 for 80 % power
    assert card.power.least == pytest.approx((2.935 + 0.8416) * 0.03 / 1.96, rel=1e-3)
    assert "from about 0.058 in macro F1 (80 % power, 30 decisions a month)" in card.power.sentence
    assert f"0.02 would take about {round(400 * (card.power.least / 0.02) ** 2, -2):,.0f} rows" in card.power.sentence
    assert [(d.version, d.score, d.champion_score, d.is_promotion) for d in card.decisions] == [
        ("1", 0.70, None, True),
        ("2", 0.80, 0.70, True),
    ]
    assert not card.waiting


def test_power_is_not_told_by_an_interval_of_another_rule(store: Any) -> None:
    config = store.config.model_copy(update={"promotion": replace(store.config.promotion, per="year")})
    card = only(read_board(replace(store, config=config)))
    assert card.power is not None and card.power.least is None and card.power.n == 400
    assert "no two versions were compared on them under today's rule" in card.power.sentence


def test_log_loss_is_shown_as_it_is_and_not_negated(shelf: Any) -> None:
    store = shelf()
    record(store, "promoted", "1", None, "1", numbers={**numbers(store, -0.41), "metric": "log_loss"})
    card = only(read_board(store))
    assert card.champion is not None and (card.champion.score, card.metric) == (0.41, "log loss")


def test_interval_and_report_come_from_the_run_of_this_home(store: Any) -> None:
    folder = Path(store.home) / "runs" / "0123456789ab"
    (folder / "evaluation").mkdir(parents=True)
    (folder / "evaluation" / "report.html").write_text("<p>report</p>")
    result = {"registered_model": MODEL, "version": "2", "test": {"macro_f1_interval": [0.76, 0.84]}}
    write_json(folder / "run.json", {"result": result})
    broken = Path(store.home) / "runs" / "ba9876543210"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    card = only(read_board(store))
    assert card.champion is not None and card.champion.interval == (0.76, 0.84)
    assert card.champion.report == "runs/0123456789ab/evaluation/report.html"
    assert [d.interval for d in card.decisions] == [None, (0.76, 0.84)]


def test_approval_that_is_awaited_stands_with_its_exact_command_until_it_is_given(store: Any) -> None:
    reason = "awaiting approval: better than version 2; finish with `bertft promote letters 3 --approve`"
    record(store, "awaiting", "3", "2", "2", reason=reason, numbers=numbers(store, 0.85, 0.80))
    (notice,) = only(read_board(store)).waiting
    assert notice.text == "version 3 awaits approval: better than version 2"
    assert notice.command == "bertft promote letters 3 --approve"
    assert overrides.awaiting(store, MODEL, "3") is not None and overrides.awaiting(store, MODEL, "2") is None
    record(store, "approved", "3", "2", "3", numbers=numbers(store, 0.85, 0.80))
    assert not only(read_board(store)).waiting


def test_hold_and_what_was_rolled_back_are_told(store: Any) -> None:
    record(store, "rolled_back", "2", "2", "1", reason="complaints")
    card = only(read_board(store))
    assert card.champion is not None and (card.champion.version, card.champion.how) == ("1", "a rollback")
    assert [(n.text, n.command) for n in card.waiting] == [
        ("nothing is promoted, on hold: rolled back from version 2: complaints", 'bertft resume letters --reason "…"')
    ]
    assert any("version 2 was rolled back" in note and "--force" in note for note in card.notes)


def test_nights_are_a_strip_and_a_bad_last_one_waits_for_a_person(store: Any) -> None:
    add_night(store, 1, PROMOTED, version="1")
    add_night(store, 2, KEPT, facts={"text_auroc": 0.58, "label_distance": 0.06, "champion_on_new": 0.9})
    add_night(store, 3, FAILED, "0 MB free")
    card = only(read_board(store))
    assert [(n.night, n.outcome) for n in card.nights] == [
        ("2026-03-01", PROMOTED),
        ("2026-03-02", KEPT),
        ("2026-03-03", FAILED),
    ]
    assert [(n.text, n.command) for n in card.waiting] == [
        ("night 2026-03-03: failed: 0 MB free", "bertft nights letters")
    ]
    assert [(d.name, d.value, d.night) for d in card.drift] == [
        ("text drift", "AUROC 0.58", "2026-03-02"),
        ("class shares", "differ by 0.06", "2026-03-02"),
        ("champion on new rows", "90.0 % right", "2026-03-02"),
    ]
    add_night(store, 4, SKIPPED)
    assert not only(read_board(store)).waiting


def test_a_night_at_work_and_a_line_that_cannot_be_read_are_told(store: Any) -> None:
    add_night(store, 1, SKIPPED)
    log = NightLog(Path(store.home), MODEL)
    log.begin(OpenNight(night="2026-03-02", started="2026-03-02T02:30:00+00:00"))
    with open(log.file, "ab") as handle:
        handle.write(b'{"night": "20')
    card = only(read_board(store))
    assert card.at_work == ("2026-03-02T02:30:00+00:00",) and len(card.nights) == 1
    assert any(note.startswith("not read: ") for note in card.notes)


def test_a_champion_that_lost_its_alias_waits_for_a_person(store: Any) -> None:
    aliases.drop_alias(store, MODEL, "champion")
    card = only(read_board(store))
    assert card.champion is None
    assert "lost the alias champion" in card.waiting[0].text and card.waiting[0].command.startswith("bertft rollback")
    assert len(ledger.read(store, MODEL)) == 2  # a look repairs nothing


def test_registry_that_lost_the_model_is_told_and_nothing_is_taken_for_fresh(store: Any, blank: Path) -> None:
    shutil.copy(blank / "mlflow.db", Path(store.home) / "mlflow.db")
    card = only(read_board(store))
    assert "the registry has lost model letters" in card.waiting[0].text
    assert card.waiting[0].command == "bertft adopt letters"


def test_missing_registry_is_said_with_what_the_home_remembers_and_none_is_made(store: Any) -> None:
    database = Path(store.home) / "mlflow.db"
    database.unlink()
    add_night(store, 1, KEPT)
    page = read_board(store)
    assert f"there is none at {store.registry_uri}" in page.faults[0]
    assert "version 2" in only(page).notes[0] and len(only(page).nights) == 1 and not only(page).is_read
    assert not database.exists()


def test_fresh_home_has_a_page_that_says_so(tmp_path: Path) -> None:
    home = tmp_path / "fresh"
    home.mkdir()
    page = write_board(load_mlflow_config(environ={}).store(home))
    assert page.models == () and page.faults == () and page.registry.endswith("(none yet)")
    assert "No model yet" in board_file(home).read_text(encoding="utf-8")
    assert [file.name for file in home.iterdir()] == ["board.html"]


def test_registry_that_does_not_answer_is_said_and_the_nights_are_shown(store: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = replace(store, tracking_uri="http://127.0.0.1:9", registry_uri="http://127.0.0.1:9")
    add_night(store, 1, KEPT)
    page = read_board(away)
    assert page.faults[0].startswith("The registry is not shown: ") and len(only(page).nights) == 1
    assert not only(page).is_read
    assert read_board(store, "asked in vain").faults == ("The registry is not shown: asked in vain",)


def test_models_of_others_are_left_out_and_those_that_wait_come_first(store: Any) -> None:
    aliases.ensure_model(store, "somebody-elses")
    add_night(store, 1, FAILED, name="zebra")
    assert [card.name for card in read_board(store).models] == ["zebra", MODEL]


def test_page_is_for_its_user_alone_and_what_goes_wrong_is_said_and_nothing_else(store: Any) -> None:
    said: list[str] = []
    refresh_board(store, said.append)
    file = board_file(Path(store.home))
    assert not said and file.stat().st_mode & 0o777 == 0o600 and "letters" in file.read_text(encoding="utf-8")
    file.unlink()
    file.mkdir()
    refresh_board(store, said.append)
    assert len(said) == 1 and said[0].startswith("warning: the board is not written (")
    assert not list(Path(store.home).glob(".board*"))


def test_disk_is_counted_by_folder(store: Any) -> None:
    (Path(store.home) / "search").mkdir()
    (Path(store.home) / "search" / "big").write_bytes(b"x" * 5_000_000)
    disk = dict(read_board(store).disk)
    assert disk["search"] == 5_000_000 and disk["files in no folder (databases)"] > 100_000


def test_registered_model_and_artifact_of_a_night_say_where_the_board_is(store: Any) -> None:
    from bertft_core.tracking.store import client

    aliases.ensure_model(store, "new")
    described = client(store).get_registered_model("new").description
    assert str(board_file(Path(store.home))) in described and "/board/" in described
    night = Night(night="2026-03-01", started="2026-03-01T02:30:00+00:00", outcome=KEPT, reason="a tie", seconds=9.0)
    assert "[All models](http://127.0.0.1:5000/board/)" in as_markdown(night, "new", "http://127.0.0.1:5000/board/")
    assert "All models: /srv/home/board.html" in as_markdown(night, "new", "/srv/home/board.html")
