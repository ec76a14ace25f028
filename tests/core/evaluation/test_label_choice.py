"""Which rows are chosen: unsure ones, far from each other, the same ones again."""

from __future__ import annotations

import numpy as np

from bertft_core.evaluation.label_choice import choose_rows


def test_first_is_the_row_that_the_model_is_least_sure_of() -> None:
    p = np.array([[0.99, 0.01], [0.55, 0.45], [0.9, 0.1]])
    assert choose_rows(p, np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]), 1, seed=0) == [1]


def test_of_unsure_copies_one_is_chosen_before_any_comes_twice() -> None:
    p = np.full((9, 2), 0.5)
    x = np.repeat(np.eye(3), 3, axis=0)
    for seed in range(5):
        assert {i // 3 for i in choose_rows(p, x, 3, seed)} == {0, 1, 2}


def test_distances_are_those_of_the_gradients_written_out() -> None:
    """With two rows to choose, how often each is the second one goes by its squared distance to the first."""
    rng = np.random.default_rng(1)
    p, x = rng.dirichlet(np.ones(3), 6), rng.normal(size=(6, 4))
    answers = np.eye(3)[p.argmax(1)]
    gradients = ((p - answers)[:, :, None] * (x - x.mean(0))[:, None, :]).reshape(6, -1)
    first = int(np.square(gradients).sum(1).argmax())
    far = np.square(gradients - gradients[first]).sum(1)
    drawn = np.bincount([choose_rows(p, x, 2, seed)[1] for seed in range(4000)], minlength=6) / 4000
    np.testing.assert_allclose(drawn, far / far.sum(), atol=0.03)


def test_all_rows_come_where_there_are_not_more_and_none_twice() -> None:
    p, x = np.full((4, 2), 0.5), np.ones((4, 2))
    assert sorted(choose_rows(p, x, 10, seed=0)) == [0, 1, 2, 3]


def test_classes_that_are_decided_by_themselves_count_by_their_own_doubt() -> None:
    p = np.array([[0.99, 0.98], [0.5, 0.02], [0.01, 0.01]])
    assert choose_rows(p, np.array([[1.0], [2.0], [-3.0]]), 1, seed=0, multi_label=True) == [1]
