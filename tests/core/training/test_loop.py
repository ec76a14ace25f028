from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bertft_core.base.errors import ConfigError, ModelError, TrialPruned
from bertft_core.data.tokens.batching import epoch_batches, pad_batch
from bertft_core.data.tokens.tokenization import open_split
from bertft_core.model.classifier import load_classifier, weights_digest
from bertft_core.training.loop import fit
from bertft_core.training.results import TrainingResult
from bertft_core.training.scoring import score
from bertft_core.training.spec import FitSpec

from .kills import Killed, killer
from .specs import configured

Build = Callable[..., FitSpec]


def facts(result: TrainingResult) -> TrainingResult:
    """The result without what depends on clock and place."""
    return replace(result, seconds=0.0, model_dir="", history=tuple(replace(h, seconds=0.0) for h in result.history))


def test_fit_learns_and_keeps_the_best_epoch(spec: Build) -> None:
    result = fit(spec(epochs=10, lr=5e-3, unfreezing="none"))
    assert result.state == "complete" and result.score > 0.9
    assert result.score == max(h.macro_f1 for h in result.history) == result.history[result.best_epoch - 1].macro_f1
    assert result.steps == 60 and len(result.history) == 10


def test_fit_that_learns_goes_most_of_the_way_from_chance(spec: Build) -> None:
    result = fit(spec(epochs=10, lr=5e-3, unfreezing="none"))
    assert result.chance_loss == pytest.approx(math.log(2), abs=0.03)
    assert result.learnt is not None and result.learnt > 0.5 and result.fault == ""


@pytest.mark.parametrize(
    "changes", [{}, {"class_weights": "balanced"}, {"loss": "focal"}, {"label_smoothing": 0.1}], ids=str
)
def test_fit_that_never_left_chance_did_not_train(spec: Build, changes: dict[str, Any]) -> None:
    result = fit(spec(lr=1e-6, **changes))
    assert result.state == "complete" and result.learnt is not None and result.learnt < 0.02
    assert result.fault.startswith("did not train: the training loss was 0.") and result.fault in str(result)
    assert TrainingResult.from_json(result.to_json()).fault == result.fault


@pytest.mark.parametrize(("lr", "is_fault"), [(1e-6, True), (5e-3, False)])
def test_fit_on_soft_labels_is_judged_by_what_can_be_learnt(
    spec: Build, soft_tokens: Path, lr: float, is_fault: bool
) -> None:
    assert bool(fit(spec(tokens=str(soft_tokens), epochs=10, lr=lr, unfreezing="none")).fault) is is_fault


def test_fit_late_thaws_to_the_embeddings(spec: Build) -> None:
    result = fit(spec(epochs=4))
    assert [h.depth for h in result.history] == [1, 2, 2, 4]


def test_fit_gradual_trains_two_thirds_of_the_layers_all_along(spec: Build) -> None:
    result = fit(spec(epochs=4, unfreezing="gradual"))
    assert [h.depth for h in result.history] == [2, 2, 2, 2]


def test_fit_twice_gives_equal_bits(spec: Build, tmp_path: Path) -> None:
    first, second = (fit(spec(dropout=0.2, output=str(tmp_path / name))) for name in "ab")
    assert facts(first) == facts(second)


def test_fit_other_seed_gives_other_weights(spec: Build, tmp_path: Path) -> None:
    first, second = (fit(spec(seed=s, output=str(tmp_path / str(s)))) for s in (1, 2))
    assert first.weights_digest != second.weights_digest


@pytest.mark.parametrize("at_step", [2, 5, 6, 9, 11])
def test_fit_killed_and_resumed_equals_uninterrupted(
    spec: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: int
) -> None:
    whole = fit(spec(dropout=0.2, output=str(tmp_path / "whole")))
    broken = spec(dropout=0.2, output=str(tmp_path / "broken"), checkpoint_seconds=0)
    monkeypatch.setattr("bertft_core.training.loop._BEAT_SECONDS", 0)
    with pytest.raises(Killed):
        fit(broken, killer(at_step))
    steps: list[int] = []
    resumed = fit(broken, lambda fraction, facts: steps.append(facts["step"]))
    assert steps[0] == at_step - 1 and facts(resumed) == facts(whole)
    one, two = (load_file(Path(r.model_dir) / "model.safetensors") for r in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("at_step", [2, 9])
@pytest.mark.parametrize(
    ("split", "changes"),
    [
        ("tokens", {"loss": "focal", "class_weights": "balanced", "label_smoothing": 0.1}),
        ("tokens", {"loss": "logit_adjusted"}),
        ("soft_tokens", {"class_weights": "sqrt"}),
        ("set_tokens", {"multi_label": True, "metric": "micro_f1", "class_weights": "balanced"}),
    ],
)
def test_fit_of_every_target_killed_and_resumed_equals_uninterrupted(
    spec: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    at_step: int,
    split: str,
    changes: dict[str, Any],
) -> None:
    settings = {"tokens": str(request.getfixturevalue(split)), "dropout": 0.2, **changes}
    whole = fit(spec(**settings, output=str(tmp_path / "whole")))
    broken = spec(**settings, output=str(tmp_path / "broken"), checkpoint_seconds=0)
    monkeypatch.setattr("bertft_core.training.loop._BEAT_SECONDS", 0)
    with pytest.raises(Killed):
        fit(broken, killer(at_step))
    assert facts(fit(broken)) == facts(whole)


def test_fit_finished_is_not_repeated(spec: Build) -> None:
    first = fit(spec())
    assert fit(spec(), killer(0)) == first


def test_fit_other_settings_ignore_the_old_checkpoint(spec: Build, tmp_path: Path) -> None:
    fit(spec())
    assert facts(fit(spec(lr=1e-3))) == facts(fit(spec(lr=1e-3, output=str(tmp_path / "fresh"))))


def test_fit_equals_a_plain_loop(spec: Build, tokens: Path, encoder: Path) -> None:
    """alpha 1, no unfreezing, no dropout: our loop is the textbook one."""
    settings = spec(alpha=1.0, unfreezing="none", dropout=0.0, warmup_fraction=0.25, metric="log_loss")
    result = fit(settings)

    torch.set_num_threads(1)
    model = load_classifier(encoder, ("a", "b"), settings.training.seed, 0.0)
    plain = [p for p in model.parameters() if p.ndim == 1]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0}])
    train, validation = open_split(tokens, "train"), open_split(tokens, "validation")
    model.train()
    step, losses = 0, []
    for epoch in range(2):
        for rows in epoch_batches(train.lengths, train.labels, 16, settings.training.seed, epoch):
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * ((step + 1) / 4 if step < 3 else (12 - step) / 9)
            ids, mask, types, labels = (torch.from_numpy(np.array(a)) for a in pad_batch(train, rows, 0))
            loss = torch.nn.functional.cross_entropy(model(ids, mask, types).logits, labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
        model.eval()
        ids, mask, types, labels = (
            torch.from_numpy(np.array(a)) for a in pad_batch(validation, np.arange(len(validation.labels)), 0)
        )
        with torch.no_grad():
            losses.append(torch.nn.functional.cross_entropy(model(ids, mask, types).logits, labels).item())
        model.train()
    assert [h.validation_loss for h in result.history] == pytest.approx(losses, abs=2e-5)


def test_fit_frozen_level_that_moves_is_an_error(spec: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    from bertft_core.training import loop

    real = loop._step

    def tampered(run: Any, rows: Any) -> None:
        real(run, rows)
        with torch.no_grad():
            run.model.get_parameter("bert.embeddings.word_embeddings.weight").mul_(1.01)

    monkeypatch.setattr(loop, "_step", tampered)
    with pytest.raises(ModelError, match="embeddings was frozen but moved"):
        fit(spec())


def test_fit_frozen_levels_have_no_gradient_and_no_dropout(spec: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    from bertft_core.training import loop

    real, seen = loop._step, []

    def spied(run: Any, rows: Any) -> None:
        real(run, rows)
        layers = run.model.bert.encoder.layer
        seen.append(
            (
                [p.grad is not None for p in (layers[0].output.dense.weight, layers[2].output.dense.weight)],
                [layers[0].output.dropout.training, layers[2].output.dropout.training],
            )
        )

    monkeypatch.setattr(loop, "_step", spied)
    fit(spec(epochs=4))
    assert seen[0] == ([False, True], [False, True]) and seen[-1] == ([True, True], [True, True])


def test_fit_rung_stops_it_as_pruned(spec: Build) -> None:
    asked: list[float] = []

    def on_rung(fraction: float, score: float) -> bool:
        asked.append(fraction)
        return fraction >= 0.5

    result = fit(spec(epochs=3), on_rung=on_rung)
    assert result.state == "pruned" and asked == [0.25, 0.5] and result.steps == 9 and len(result.rungs) == 2


def test_fit_listening_to_rungs_changes_no_bit(spec: Build, tmp_path: Path) -> None:
    silent = fit(spec(epochs=3, dropout=0.1))
    heard = fit(spec(epochs=3, dropout=0.1, output=str(tmp_path / "b")), on_rung=lambda fraction, score: False)
    assert heard.weights_digest == silent.weights_digest and [f for f, _ in heard.rungs] == [0.25, 0.5, 0.75]


def test_fit_keeps_adams_state_of_a_level_from_its_thaw_on(spec: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    from bertft_core.training import loop

    real, seen = loop._step, []

    def spied(run: Any, rows: Any) -> None:
        real(run, rows)
        named = dict(run.model.named_parameters())
        watched = ("classifier.weight", "bert.encoder.layer.1.output.dense.weight", "bert.embeddings.LayerNorm.weight")
        states = [run.optimizer.state.get(named[name], {}) for name in watched]
        assert all(bool(state["exp_avg"].any()) for state in states if state)
        seen.append(tuple(int(state["step"]) if state else 0 for state in states))

    monkeypatch.setattr(loop, "_step", spied)
    fit(spec(epochs=4))  # 24 steps; layer 1 of 3 from step 6 on, the embeddings from step 18 on
    assert seen == [(step, max(0, step - 6), max(0, step - 18)) for step in range(1, 25)]


def test_fit_infinite_gradient_of_a_finite_loss_is_pruned(
    spec: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertft_core.training import loop

    real, steps = loop.batch_gradient, []

    def overflowing(*given: Any) -> tuple[float, int]:
        found = real(*given)
        steps.append(1)
        if len(steps) == 4:
            optimizer = given[3]
            parameters = (p for group in optimizer.param_groups for p in group["params"])
            next(p for p in parameters if p.grad is not None).grad.view(-1)[0] = float("inf")
        return found

    monkeypatch.setattr(loop, "batch_gradient", overflowing)
    with pytest.raises(TrialPruned, match=r"nonfinite: loss 0\.\d+, gradient norm inf at step 4: lower training\.lr"):
        fit(spec())


@pytest.mark.slow
def test_fit_with_compiled_layers_trains_what_thaws(
    spec: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compilers have kept graphs of frozen layers after a thaw (pytorch #139476); the check of a phase would tell."""
    from bertft_core.model.encoder_pass import PostNormLayer

    eager = fit(spec(epochs=4, output=str(tmp_path / "eager")))
    torch.compiler.reset()
    compiled: Any = torch.compile(PostNormLayer.__call__, backend="aot_eager")
    monkeypatch.setattr(PostNormLayer, "__call__", lambda *given, **named: compiled(*given, **named))
    found = fit(spec(epochs=4, output=str(tmp_path / "compiled")))
    torch.compiler.reset()
    assert [h.train_loss for h in found.history] == pytest.approx([h.train_loss for h in eager.history], abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_fit_diverging_is_pruned_as_nonfinite(spec: Build) -> None:
    with pytest.raises(TrialPruned) as caught:
        fit(spec(lr=1e30, unfreezing="none", epochs=4))
    assert caught.value.reason.startswith("nonfinite")


def test_fit_soft_labels_learns(spec: Build, soft_tokens: Path) -> None:
    result = fit(spec(tokens=str(soft_tokens), epochs=10, lr=5e-3, unfreezing="none"))
    assert result.score > 0.9 and result.log_loss > 0.3  # the entropy of (0.9, 0.1) is 0.325


def test_fit_bfloat16_learns(spec: Build) -> None:
    assert fit(spec(precision="bfloat16", epochs=10, lr=5e-3, unfreezing="none")).score > 0.8


def test_fit_rows_trains_on_a_sample(spec: Build) -> None:
    assert fit(spec(rows=32, keep_model=False)).steps == 4


def test_fit_says_that_a_wrappers_prefix_was_taken_off(spec: Build, encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "wrapped")
    weights = {f"module.{name}": tensor.clone() for name, tensor in load_file(encoder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors")
    plain, wrapped = fit(spec()), fit(spec(pretrained=str(folder), output=str(tmp_path / "fit")))
    assert plain.note == "" and "begin with 'module.', a wrapper's: it was taken off" in wrapped.note
    assert wrapped.weights_digest == plain.weights_digest


def test_fit_leaves_the_callers_random_state_alone(spec: Build) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    fit(spec(epochs=1))
    assert torch.equal(torch.rand(1), expected)


def test_fit_without_kept_model_leaves_only_its_result(spec: Build) -> None:
    result = fit(spec(keep_model=False))
    assert result.model_dir == "" and [p.name for p in Path(spec().output).iterdir()] == ["result.json"]


def test_score_gives_the_best_epochs_probabilities_in_order(spec: Build, tokens: Path) -> None:
    result = fit(spec(epochs=4, unfreezing="none"))
    p = score(result.model_dir, tokens, "validation", threads=1)
    labels = open_split(tokens, "validation").labels
    assert p.dtype == np.float32 and p.sum(1) == pytest.approx(1, abs=1e-6)
    assert -np.log(p[np.arange(len(labels)), labels]).mean() == pytest.approx(result.log_loss, abs=1e-6)


def test_weights_digest_is_that_of_the_saved_model(spec: Build) -> None:
    from bertft_core.model.classifier import load_saved

    result = fit(spec())
    assert weights_digest(load_saved(result.model_dir)) == result.weights_digest


def test_result_survives_json(spec: Build) -> None:
    result = fit(spec())
    assert TrainingResult.from_json(result.to_json()) == result


def test_fit_validation_loss_is_neither_weighted_nor_smoothed(spec: Build, tokens: Path) -> None:
    result = fit(spec(class_weights="balanced", label_smoothing=0.3, unfreezing="none"))
    p, labels = score(result.model_dir, tokens, "validation", threads=1), open_split(tokens, "validation").labels
    assert -np.log(p[np.arange(len(labels)), labels]).mean() == pytest.approx(result.log_loss, abs=1e-6)


@pytest.mark.parametrize(("key", "value"), [("class_weights", "equal"), ("label_smoothing", 1.0)])
def test_impossible_loss_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"training.{key}"):
        configured(**{key: value})


def end_of(history: tuple[Any, ...], patience: int, deepest: int) -> int:
    """The epoch after which a fit with this history ends, by the rule in words."""
    for epoch in range(1, len(history) + 1):
        seen = [(h.accuracy, -h.validation_loss) for h in history[:epoch]]
        best = seen.index(max(seen)) + 1
        if sum(h.depth == deepest for h in history[best:epoch]) >= patience:
            return epoch
    return len(history)


@pytest.mark.parametrize(("unfreezing", "patience"), [("none", 1), (((0.0, 1), (0.5, 4)), 2)])
def test_fit_ends_after_epochs_of_the_last_phase_without_a_better_score(
    spec: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unfreezing: Any, patience: int
) -> None:
    wild = {"lr": 0.03, "epochs": 20, "metric": "accuracy", "unfreezing": unfreezing}
    whole = fit(spec(**wild, output=str(tmp_path / "whole")))
    last = end_of(whole.history, patience, 4)
    ended = fit(spec(**wild, patience=patience))
    assert last < 20 and ended.state == "complete"
    assert facts(ended).history == facts(whole).history[:last]
    monkeypatch.setattr("bertft_core.training.loop._BEAT_SECONDS", 0)
    broken = spec(**wild, patience=patience, output=str(tmp_path / "broken"), checkpoint_seconds=0)
    with pytest.raises(Killed):
        fit(broken, killer(6 * last - 1))
    assert facts(fit(broken)) == facts(ended)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "hinge"}, "training.loss: input should be 'cross_entropy', 'focal' or 'logit_adjusted'"),
        ({"class_weights": {"a": 0.0}}, r"training.class_weights.*a: input should be greater than 0, was 0.0"),
        ({"tau": 0.0}, "training.tau: input should be greater than 0, was 0.0"),
        ({"patience": 0}, "training.patience: input should be greater than or equal to 1, was 0"),
    ],
)
def test_configuration_refuses_a_loss_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configured(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_weights": {"a": 2.0, "c": 1.0}}, "training.class_weights: no class 'c' in the data; classes: a, b"),
        ({"precision": "auto"}, "training.precision must be settled for this machine before a fit, was auto"),
        ({"metric": "auroc"}, "evaluation.metric must be one of"),
    ],
)
def test_spec_refuses_what_its_data_or_machine_rules_out(spec: Build, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec(**changes)


def test_fit_of_sets_with_class_weights_names_more_labels(spec: Build, set_tokens: Path, tmp_path: Path) -> None:
    """A weight of 8 on every "yes" moves the probabilities up."""
    sets = {"tokens": str(set_tokens), "multi_label": True, "unfreezing": "none", "epochs": 4}
    given: dict[str, Any] = {"none": "none", "rule": "balanced", "given": {"a": 8.0, "b": 8.0}}
    means = {}
    for name, weights in given.items():
        found = fit(spec(**sets, class_weights=weights, output=str(tmp_path / name)))
        means[name] = float(score(found.model_dir, set_tokens, "test").mean())
    assert means["given"] > means["none"] + 0.1 and means["rule"] != means["none"]


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_fit_of_sets_learns_each_label_and_leaves_a_standard_folder(spec: Build, set_tokens: Path, loss: str) -> None:
    from transformers import AutoModelForSequenceClassification

    sets = {"tokens": str(set_tokens), "multi_label": True, "loss": loss, "metric": "micro_f1", "unfreezing": "none"}
    result = fit(spec(**sets, lr=8e-3, epochs=25))
    last = result.history[-1]
    assert result.score > 0.85 and last.micro_f1 is not None and 0 <= last.accuracy <= last.micro_f1
    model = AutoModelForSequenceClassification.from_pretrained(result.model_dir)
    assert model.config.problem_type == "multi_label_classification"
    arrays = open_split(set_tokens, "test")
    ids, mask, types, targets = (torch.from_numpy(np.array(a)) for a in pad_batch(arrays, np.arange(8), 0))
    answer = model(input_ids=ids, attention_mask=mask, token_type_ids=types, labels=targets)
    found = score(result.model_dir, set_tokens, "test")[:8]
    assert np.abs(torch.sigmoid(answer.logits).detach().numpy() - found).max() < 1e-5
    assert torch.isfinite(answer.loss)  # transformers takes the same 0 and 1


def test_spec_of_sets_refuses_what_wants_one_class(spec: Build) -> None:
    with pytest.raises(ConfigError, match="wants one class per row"):
        spec(multi_label=True, loss="logit_adjusted")
    with pytest.raises(ConfigError, match="micro_f1 is accuracy"):
        spec(metric="micro_f1")
