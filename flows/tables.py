"""What a person reads at the end of a verb."""

from __future__ import annotations

from typing import Any


def render(verb: str, result: dict[str, Any]) -> str:
    """A short table for `verb`'s result document."""
    if verb == "check":
        return _plan(result)
    if verb in {"predict", "promote"}:
        return "\n".join(f"{k}: {v}" for k, v in result.items())
    return _run(result)


def _run(result: dict[str, Any]) -> str:
    lines = [f"{result['name']}  run {result['run_id']}"]
    if result.get("best_params"):
        lines.append("parameters   " + ", ".join(f"{k} {v:.3g}" for k, v in result["best_params"].items()))
    if "test" in result:
        lines += _test(result["test"])
    if "version" in result:
        verdict = "promoted" if result["promoted"] else "not promoted"
        lines.append(f"model        {result['registered_model']} version {result['version']}: {verdict}")
        lines.append(f"reason       {result['reason']}")
    lines.append("seconds      " + ", ".join(f"{k} {v:.0f}" for k, v in result["seconds"].items()))
    lines += [f"look         {line}" for line in result.get("look", [])]
    return "\n".join(lines)


def _test(test: dict[str, Any]) -> list[str]:
    def interval(name: str, form: str = ".4f") -> str:
        found = test[f"{name}_interval"]
        return "" if found is None else f"[{found[0]:{form}}, {found[1]:{form}}]"

    return [
        f"test         n {test['n']}, log loss {test['log_loss']:.4f}",
        f"  accuracy   {test['accuracy']:.4f}  {interval('accuracy')}",
        f"  macro F1   {test['macro_f1']:.4f}  {interval('macro_f1')}",
        f"  TF-IDF     {test['floor_accuracy']:.4f}  the encoder bought {test['floor_difference']:+.4f} "
        f"{interval('floor_difference', '+.4f')}",
    ]


def _plan(plan: dict[str, Any]) -> str:
    lines = [f"{plan['name']}: {plan['data']}", "", "split        rows   cut    p50    p90    p99    max"]
    for row in plan["splits"]:
        cells = "".join(f"{row[k]:>7}" for k in ("rows", "cut", "p50", "p90", "p99", "max"))
        lines.append(f"{row['split']:<10}{cells}")
    lines += ["", f"{'layer':<12}{'lr':>11}{'decay':>8}{'thaws at':>10}"]
    for row in plan["layers"]:
        lines.append(f"{row['name']:<12}{row['lr']:>11.3g}{row['weight_decay']:>8g}{_share(row['thaws_at']):>10}")
    lines += ["", f"steps        {plan['steps']}", f"search       {plan['search']}"]
    lines += [f"register     {plan['register']}", *[f"warning      {w}" for w in plan["warnings"]]]
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "never" if value is None else f"{value:.0%}"
