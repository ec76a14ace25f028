"""The parts of benchmarks/paper_tables.py that need no fit: arms, plan, the rule of the sentences, the page."""

from __future__ import annotations

import math
from importlib import import_module as load
from pathlib import Path

import numpy as np
import pytest

from bertft_core.config.run import RunConfig

pytestmark = pytest.mark.usefixtures("benchmarks_on_the_path")
ZERO_INSIDE, ABOVE, BELOW = [-0.01, 0.02], [0.001, 0.02], [-0.02, -0.001]


@pytest.mark.parametrize(
    ("seeds", "rows", "word"),
    [
        (ABOVE, ABOVE, "helps"),
        (BELOW, BELOW, "hurts"),
        (ABOVE, ZERO_INSIDE, "no measurable difference"),
        (ZERO_INSIDE, BELOW, "no measurable difference"),
        ([math.nan, math.nan], ABOVE, "no measurable difference"),  # one seed
    ],
)
def test_verdict_needs_both_intervals_to_leave_out_zero(seeds: list[float], rows: list[float], word: str) -> None:
    assert word in load("paper_page").verdict({"interval_seeds": seeds, "interval_rows_and_seeds": rows})


def test_sentence_without_a_difference_says_what_effect_may_hide() -> None:
    arm = load("paper_arms").Arm(table="table2", name="tail", technique="Reading the end")
    found = {"difference": 0.004, "interval_seeds": [-0.002, 0.01], "interval_rows_and_seeds": [-0.004, 0.0123]}
    text = load("paper_page").sentence(arm, found)
    assert (
        text.startswith("Reading the end makes no measurable difference at this size (+0.40 points")
        and "from -0.4 to +1.2" in text
    )


def test_work_of_a_step_is_three_forwards_as_machine_limit_counts_it() -> None:
    sizes = {"layers": 6, "width": 384, "inner": 1536, "classes": 2}
    head = 16 * 6 * (384**2 + 384 * 2)
    whole = load("machine_limit").step_flops(16, 128, sizes, first_only=False, recomputation=False)
    encoder = load("paper_plan").Encoder(layers=6, width=384, inner=1536)
    assert 3 * encoder.forward([128] * 16) + head == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "layers"),
    [
        ({}, 3 * 6 * 3),  # epochs x layers x (one forward, two backward)
        # a quarter of the fit trains one layer, the rest two; all six are computed once for the cache
        ({"unfreezing": "fast"}, 3 * (0.25 * 3 + 0.75 * 6) + 6),
        # the head alone: one layer forward, nothing backward
        ({"unfreezing": "head_first"}, 3 * (0.25 * 1 + 0.75 * 18) + 6),
        ({"model.layers": 1}, 3 * 2 * 3),
    ],
)
def test_work_of_a_fit_in_layers(values: dict[str, object], layers: float) -> None:
    plan, arms = load("paper_plan"), load("paper_arms")
    encoder = plan.Encoder(layers=6, width=8, inner=32)
    texts = plan.Texts(train=[10, 20], validation=[], test=[])
    assert plan.fit_flops(arms.BASE | values, texts, encoder) == pytest.approx(layers * encoder.forward([10, 20], 1))


def test_resolvable_difference_by_hand() -> None:
    """Seeds: .06 / 2000 / 5 = 6e-6, (2.7764 + 0.9410) * sqrt = 0.0091; with rows 2.6e-5, 2.8016 * sqrt = 0.01429."""
    noise = load("paper_plan").Noise(within=0.06, between=0.04, spread=0.0, source="")
    assert noise.resolvable(2000, 5) == pytest.approx(0.01429, abs=1e-5)
    wide = load("paper_plan").Noise(within=0.06, between=0.0, spread=0.01, source="")  # 4.6e-5: seeds decide
    assert wide.resolvable(2000, 5) == pytest.approx(3.7174 * math.sqrt(4.6e-5), abs=1e-5)
    assert math.isnan(noise.resolvable(2000, 1))


def test_discordance_comes_from_the_fits_where_there_are_any() -> None:
    plan, arms = load("paper_plan"), load("paper_arms").table2()[:3]
    head, tail, both = arms
    right = {head.key(0): {1: np.array([True] * 10), 2: np.array([True] * 9 + [False])}}
    right[tail.key(0)] = {1: np.array([True] * 7 + [False] * 3)}
    own, other = (plan.noise_of(arm, right, arms) for arm in (tail, both))
    assert (own.within, own.between, own.source) == (pytest.approx(0.1), pytest.approx(0.2), "its own")
    assert other.source == "largest of the table so far"
    assert plan.noise_of(tail, {}, arms).source == "assumed"


def test_every_arm_that_is_not_left_out_is_a_valid_configuration_with_a_baseline() -> None:
    arms = load("paper_arms")
    found, left_out = arms.arms_of(tuple(arms.TABLES))
    assert {arm.table for arm in found} == set(arms.TABLES)
    config = RunConfig(name="x", data={"source": "rows.csv"}, model={"pretrained": "encoder"})
    for arm in found:
        config.with_values(arm.settings())  # raises for a key that nothing reads
        assert not arm.against or load("paper_plan").baseline(arm, found).table == arm.table
        assert bool(arm.technique) is bool(arm.against)
    assert all("left out" in line for line in left_out)


def test_an_arm_of_another_version_is_named_and_left_out() -> None:
    arm = load("paper_arms").Arm(table="table2", name="x", values={"tokenization.folding": "mean"})
    assert arm.fault() == "no key tokenization.folding in this version"


def test_tables_share_the_plain_fit() -> None:
    arms = load("paper_arms")
    found, _ = arms.arms_of(tuple(arms.TABLES))
    plain = {arm.table for arm in found if arm.settings() == arms.BASE}
    assert plain == set(arms.TABLES)
    assert len({arm.key(1) for arm in found if arm.settings() == arms.BASE}) == 1


def test_page_says_what_the_records_hold(tmp_path: Path) -> None:
    arms, rng = load("paper_arms"), np.random.default_rng(0)
    settings = {"train": 1000, "validation": 200, "test": 400, "max_length": 128, "epochs": 3, "batch_size": 16}
    records = load("records").Records(tmp_path / "r.jsonl", settings | {"threads": 2})
    records.add("test rows", {"labels": "0" * 400, "fingerprint": "", "classes": ["0", "1"]})
    head, tail, both = arms.table2()[:3]
    for seed in range(1, 6):
        for arm, wrong in ((head, 100), (tail, 40), (both, 100)):
            answers = "1" * wrong + "0" * (400 - wrong)
            if arm is both:
                answers = "".join(rng.permutation(list(answers)))
            records.add(arm.key(seed), {"answers": answers, "at": "2026-11-28", "code": "abc"})
    page = load("paper_page").write_page(records, ["table2"], tmp_path, is_quick=False).read_text(encoding="utf-8")
    assert "| tail | 10.00 (10.00 to 10.00) | head | +15.00 |" in page and "| 5.44 | +0.19 |" in page
    assert "instead of its beginning helps: +15.00 points of accuracy." in page
    assert "instead of the beginning alone makes no measurable difference at this size" in page
    assert "2026-11-28" in page and (tmp_path / "evidence_table2.png").stat().st_size > 5000


def test_page_names_an_arm_that_did_not_train_and_compares_it_with_nothing(tmp_path: Path) -> None:
    arms = load("paper_arms")
    settings = {"train": 1000, "validation": 200, "test": 400, "max_length": 128, "epochs": 3, "batch_size": 16}
    records = load("records").Records(tmp_path / "r.jsonl", settings | {"threads": 2})
    records.add("test rows", {"labels": "01" * 200, "fingerprint": "", "classes": ["0", "1"]})
    plain, lowest, second = arms.table3()[:3]
    stuck, learns = {"train_loss": 0.6922, "validation_loss": 0.6935}, {"train_loss": 0.6, "validation_loss": 0.65}
    for seed in (1, 2):
        for arm, epoch in ((plain, learns), (lowest, stuck), (second, learns if seed == 2 else stuck)):
            answers = "0" * 400 if epoch is stuck else "01" * 160 + "0" * 80
            facts = {"answers": answers, "history": [epoch], "at": "2026-11-28", "code": "abc"}
            records.add(arm.key(seed), facts)
    page = load("paper_page").write_page(records, ["table3"], tmp_path, is_quick=False).read_text(encoding="utf-8")
    assert "| layer 0 | did not train in 2 of 2 seeds | pooled [CLS] |  |  |  | 9.81" in page
    assert "| layer 1 | did not train in 1 of 2 seeds; else 10.00 (10.00 to 10.00) | pooled [CLS] |  |" in page
    assert "layer 0 instead of the pooled [CLS] of the top layer: not measured (did not train in 2 of 2 seeds)." in page


def test_page_of_nothing_is_refused(tmp_path: Path) -> None:
    records = load("records").Records(tmp_path / "r.jsonl", {})
    with pytest.raises(Exception, match="run without --write first"):
        load("paper_page").write_page(records, ["table2"], tmp_path, is_quick=False)
