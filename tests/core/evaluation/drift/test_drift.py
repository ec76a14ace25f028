from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bertft_core.base.errors import ArtifactError, DataError
from bertft_core.evaluation.drift.domain_shift import DomainShift, domain_shift
from bertft_core.evaluation.drift.label_shift import label_shift
from bertft_core.evaluation.drift.report import DriftReport, draw_drift
from bertft_core.evaluation.drift.text_figures import text_figures


def normal(rows: int, width: int, seed: int, mean: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(rows, width)) + mean).astype(np.float32)


# labels


def test_total_variation_is_the_share_that_would_have_to_move() -> None:
    found = label_shift({"a": 50, "b": 30, "c": 20}, {"a": 10, "b": 5, "c": 5})
    assert found.total_variation == pytest.approx((0.0 + 0.05 + 0.05) / 2)


def test_label_p_value_is_that_of_the_chi_square_by_hand() -> None:
    chi_square = 200 * (50 * 40 - 50 * 60) ** 2 / (100 * 100 * 110 * 90)  # 2.02, one degree of freedom
    found = label_shift({"a": 50, "b": 50}, {"a": 60, "b": 40})
    assert (found.p_value, found.test) == (pytest.approx(math.erfc(math.sqrt(chi_square / 2))), "chi-square")


def test_label_p_value_of_few_rows_is_that_of_all_tables() -> None:
    """Of the 70 ways to choose 4 of 8 rows, 36 share them out evenly."""
    found = label_shift({"a": 3, "b": 1}, {"a": 1, "b": 3})
    assert (found.p_value, found.test) == (pytest.approx(34 / 70, abs=0.02), "Monte Carlo")


def test_label_p_value_is_one_with_a_single_class() -> None:
    assert label_shift({"a": 3}, {"a": 1}).p_value == label_shift({"a": 30}, {"a": 10}).p_value == 1.0


def test_jensen_shannon_divergence_is_in_bits() -> None:
    assert label_shift({"a": 9}, {"b": 9}).jensen_shannon == pytest.approx(1.0)
    mixed = 0.25 * math.log2(4) + 0.75 * math.log2(4 / 3)  # entropy of (3/4, 1/4)
    assert label_shift({"a": 9, "b": 9}, {"a": 9}).jensen_shannon == pytest.approx(mixed - 0.5)


def test_classes_of_one_side_only_are_named() -> None:
    found = label_shift({"a": 5, "old": 5, "never": 0}, {"a": 5, "new": 5})
    assert [(c.name, c.n_old, c.n_new) for c in found.classes] == [("a", 5, 5), ("new", 0, 5), ("old", 5, 0)]
    assert [(c.name, c.before, c.after) for c in found.classes] == [("a", 0.5, 0.5), ("new", 0, 0.5), ("old", 0.5, 0)]


def test_label_shift_does_not_depend_on_the_order_of_the_classes() -> None:
    old, new = {"a": 9, "b": 4, "c": 2}, {"c": 3, "b": 1, "a": 1}
    assert label_shift(old, new) == label_shift(dict(reversed(old.items())), dict(reversed(new.items())))


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ({"a": 500, "b": 500}, {"a": 300, "b": 700}, True),
        ({"a": 500, "b": 500}, {"a": 3, "b": 7}, False),  # large, but an accident
        ({"a": 50_000, "b": 50_000}, {"a": 48_000, "b": 52_000}, False),  # no accident, but small
    ],
)
def test_label_shift_must_be_large_and_no_accident(old: dict[str, int], new: dict[str, int], expected: bool) -> None:
    assert label_shift(old, new).is_shifted() is expected


@pytest.mark.parametrize("old, new", [({}, {"a": 1}), ({"a": 1}, {"a": 0}), ({"a": 3, "b": -1}, {"a": 1})])
def test_label_shift_without_rows_or_with_negative_counts_is_refused(old: dict[str, int], new: dict[str, int]) -> None:
    with pytest.raises(DataError, match="rows on both sides"):
        label_shift(old, new)


# features


def test_domain_interval_holds_one_half_at_about_the_nominal_rate() -> None:
    """More features than rows a side: the hardest case, where the plain interval holds it far too seldom."""
    repeats = 120
    found = [domain_shift(normal(40, 60, 2 * i), normal(40, 60, 2 * i + 1), seed=0) for i in range(repeats)]
    held = sum(f.low < 0.5 < f.high for f in found)
    assert 0.91 * repeats <= held <= 0.995 * repeats


def test_domain_shift_is_found_where_the_means_differ() -> None:
    found = domain_shift(normal(300, 10, 1), normal(200, 10, 2, mean=0.4), seed=0)
    assert found.is_shifted() and (found.n_old, found.n_new) == (300, 200)


def test_domain_auroc_is_that_of_the_best_direction() -> None:
    """Two normals whose means lie 1 apart along one of four directions: AUROC = Phi(1 / sqrt 2) = 0.760."""
    step = np.array([1, 0, 0, 0], dtype=np.float32)
    found = [domain_shift(normal(2000, 4, 2 * i), normal(2000, 4, 2 * i + 1) + step, seed=0).auroc for i in range(6)]
    assert np.mean(found) == pytest.approx(0.760, abs=0.01)


def test_domain_auroc_is_one_half_for_the_same_rows_on_both_sides() -> None:
    x = normal(100, 5, 3)
    assert domain_shift(x, x[::-1], seed=0).auroc == 0.5


def test_domain_interval_of_a_perfect_ranking_is_not_a_point() -> None:
    """By hand: 1 - x = 1.96² * 2.25 / 50² * x * (1 + 49 ((1 - x) / (2 - x) + x / (1 + x))) at x = 0.9107."""
    found = domain_shift(normal(50, 3, 1), normal(50, 3, 2, mean=30), seed=0)
    assert (found.auroc, found.high) == (1.0, 1.0) and found.low == pytest.approx(0.9107, abs=1e-4)


def test_domain_interval_near_one_half_is_half_as_wide_again_as_that_of_one_split() -> None:
    """Of one split: variance (n + m + 1) / (12 n m) for equal distributions; the score interval is a little less."""
    x = normal(400, 5, 3)
    found = domain_shift(x, x, seed=0)
    expected = 1.96 * 1.5 * math.sqrt(801 / (12 * 400 * 400))
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.02)


def test_domain_shift_does_not_depend_on_the_order_of_the_rows() -> None:
    old, new = normal(120, 6, 1), normal(90, 6, 2, mean=0.3)
    rng = np.random.default_rng(5)
    assert domain_shift(old, new, seed=4, rows=60) == domain_shift(
        rng.permutation(old), rng.permutation(new), seed=4, rows=60
    )


def test_domain_shift_compares_other_rows_with_another_seed() -> None:
    old, new = normal(120, 6, 1), normal(90, 6, 2)
    one, two = (domain_shift(old, new, seed=seed, rows=40) for seed in (0, 1))
    assert one.n_old == one.n_new == 40 and one.auroc != two.auroc


def test_domain_shift_counts_equal_rows_once() -> None:
    old, new = normal(50, 4, 1), normal(40, 4, 2)
    assert domain_shift(old, np.tile(new, (3, 1)), seed=0) == domain_shift(old, new, seed=0)


def test_domain_shift_of_too_few_rows_says_so() -> None:
    found = domain_shift(normal(500, 4, 1), normal(29, 4, 2, mean=9), seed=0)
    assert found.auroc is None and found.low is None and not found.is_shifted()
    assert found.reason == "30 distinct rows are needed on each side, found 500 old and 29 new ones"


def test_domain_shift_does_not_see_a_change_of_spread_alone() -> None:
    """A stated limit of a linear classifier (docs/drift.md)."""
    found = domain_shift(normal(500, 5, 1), 3 * normal(500, 5, 2), seed=0)
    assert found.low < 0.5 < found.high


def test_domain_shift_refuses_features_that_are_not_finite_or_of_another_width() -> None:
    x = normal(40, 4, 1)
    with pytest.raises(ArtifactError, match="finite"):
        domain_shift(x, np.where(x > 2, np.nan, x), seed=0)
    with pytest.raises(ArtifactError, match="one width"):
        domain_shift(x, x[:, :3], seed=0)


# texts


def test_lengths_are_counted_in_words() -> None:
    found = text_figures(["a"] * 19 + ["a b c d e"], ["a b"] * 20)
    assert (found.lengths_old.median, found.lengths_old.low, found.lengths_new.high) == (1, 1, 2)
    assert found.lengths_old.high == pytest.approx(1.2)  # rank 18.05 of 0 to 19: a twentieth of the way from 1 to 5


def test_ks_is_the_largest_distance_between_the_lengths() -> None:
    found = text_figures(["a", "a a", "a a a", "a a a a"], ["a a a", "a a a a", "a a a a a", "a a a a a a"])
    assert found.ks == pytest.approx(0.5)


def test_ks_p_tells_other_lengths_from_equal_ones() -> None:
    short, long = ["a b"] * 60 + ["a b c"] * 40, ["a b"] * 30 + ["a b c"] * 70
    assert text_figures(short, long).ks_p < 0.001 and text_figures(short, short[::2]).ks_p == pytest.approx(1.0)


def test_unseen_is_the_share_of_new_words_no_old_text_has() -> None:
    assert text_figures(["a b", "a c"], ["a d d"]).unseen == pytest.approx(2 / 3)


def test_usual_unseen_is_what_one_old_text_brings_to_the_others() -> None:
    """Of a b b | a c | c: b stands in one text alone, twice among six words."""
    assert text_figures(["a b b", "a c", "c"], ["a"]).usual_unseen == pytest.approx(2 / 6)


def test_usual_unseen_foretells_unseen_where_nothing_changed() -> None:
    rng = np.random.default_rng(1)
    texts = [" ".join(f"w{w}" for w in rng.zipf(1.6, size=12)) for _ in range(3000)]
    found = text_figures(texts[:2000], texts[2000:])
    assert found.unseen == pytest.approx(found.usual_unseen, rel=0.1)


def test_words_are_the_same_in_any_case_and_punctuation() -> None:
    assert text_figures(["Don't go, café"], ["DON'T; GO! CAFE\u0301"]).unseen == 0


def test_word_changes_are_log_odds_with_the_prior_by_hand() -> None:
    """A word counts once a text. Prior: a 5/8, b 3/8 of 4. a: log(5.5/2.5) - log(4.5/3.5) over sqrt(1/4.5 + 1/5.5)."""
    found = text_figures(["a a", "a", "b", "b"], ["a", "a", "a", "b"])
    (rose,), (fell,) = found.risen, found.fallen
    step = math.log(5.5 / 2.5) - math.log(4.5 / 3.5)
    assert (rose.word, rose.before, rose.after) == ("a", 0.5, 0.75)
    assert rose.z == pytest.approx(step / math.sqrt(1 / 4.5 + 1 / 5.5))
    assert (fell.word, fell.z) == ("b", pytest.approx(-step / math.sqrt(1 / 3.5 + 1 / 2.5)))


@pytest.mark.parametrize("texts", [50, 5000])
def test_word_changes_stay_below_four_where_nothing_changed(texts: int) -> None:
    rng = np.random.default_rng(2)
    old, new = ([" ".join(f"w{w}" for w in rng.zipf(1.6, size=12)) for _ in range(n)] for n in (5000, texts))
    found = text_figures(old, new)
    assert len(found.risen) == len(found.fallen) == 10
    assert max(abs(c.z) for c in found.risen + found.fallen) < 4


def test_a_new_word_is_named_first_also_among_few_new_texts() -> None:
    rng = np.random.default_rng(3)
    old, new = ([" ".join(f"w{w}" for w in rng.zipf(1.6, size=12)) for _ in range(n)] for n in (5000, 50))
    found = text_figures(old, [f"{text} voucher" for text in new])
    assert found.risen[0].word == "voucher" and found.risen[0].z > 4


def test_no_word_rose_or_fell_between_equal_texts_or_with_one_word() -> None:
    for old, new in ((["a b", "c"], ["a b", "c"]), (["a"], ["a a"]), (["a b"], ["!"])):
        found = text_figures(old, new)
        assert found.risen == found.fallen == ()


def test_unseen_is_undefined_without_words() -> None:
    assert text_figures(["a"], ["?!", ""]).unseen is None


def test_text_figures_do_not_depend_on_the_order_of_the_texts() -> None:
    old, new = ["a b", "c", "d e f a"], ["a", "e e x", "c b"]
    assert text_figures(old, new) == text_figures(old[::-1], new[::-1])


def test_text_figures_without_texts_are_refused() -> None:
    with pytest.raises(DataError, match="texts on both sides, found 1 old and 0 new"):
        text_figures(["a"], [])


# report


def report(domain: DomainShift) -> DriftReport:
    return DriftReport(
        label=label_shift({"a|b": 50, "c": 50}, {"a|b": 60, "c": 40}),
        domain=domain,
        text=text_figures(["good film", "bad film"], ["good | book", "good play"]),
    )


def test_report_survives_json() -> None:
    found = report(domain_shift(normal(40, 3, 1), normal(40, 3, 2), seed=0))
    back = json.loads(json.dumps(found.to_json()))
    assert back["label"]["classes"][0] == {"name": "a|b", "n_old": 50, "n_new": 60, "before": 0.5, "after": 0.6}
    assert back["domain"]["low"] == found.domain.low and back["text"]["risen"][0]["word"] == "book"


def test_report_table_shows_every_measure() -> None:
    domain = DomainShift(n_old=40, n_new=50, auroc=0.61234, low=0.5, high=0.7)
    lines = report(domain).to_markdown().splitlines()
    assert "| labelled rows | 100 | 100 | total variation 0.100, p 0.16 (chi-square) |" in lines
    assert "| class a\\|b | 50.0% | 60.0% | +10.0 points |" in lines
    assert "| distinct rows compared | 40 | 50 | AUROC 0.612 [0.500, 0.700]; 0.5: alike |" in lines
    assert "| words no other old row has | 50.0% | 50.0% | |" in lines
    assert lines[-1].startswith("Words that fell most (share of the texts): film (100.0% → 0.0%, z -1.2)")


def test_report_table_says_why_there_is_no_auroc() -> None:
    domain = DomainShift(n_old=40, n_new=5, auroc=None, low=None, high=None, reason="too few rows")
    assert "| distinct rows compared | 40 | 5 | too few rows |" in report(domain).to_markdown()


def test_picture_draws_the_shares_and_the_lengths() -> None:
    domain = DomainShift(n_old=40, n_new=5, auroc=None, low=None, high=None, reason="too few rows")
    shares, lengths = draw_drift(report(domain)).axes
    assert sorted(round(bar.get_width(), 2) for bar in shares.patches) == [0.4, 0.5, 0.5, 0.6]
    assert [dot.get_xdata()[0] for dot in lengths.lines[1::2]] == [2, 2.5]
