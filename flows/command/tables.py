"""What a person reads at the end of a verb."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections import Counter
from typing import Any

from bertft_core.base.display import one_line
from bertft_core.base.text import NO_SPREAD, counted, rows_text, size_text
from bertft_core.config.metrics import LOWER_IS_BETTER, METRICS, as_score, metric_title, score_column, score_title

_SHOWN_CLASSES = 10  # of the largest and of the rarest, in the plan


def render(verb: str, result: dict[str, Any]) -> str:
    """A short table for `verb`'s result document, of several tasks one after the other."""
    if "tasks" in result:
        return "\n\n".join(render(verb, each) for each in result["tasks"].values())
    if verb == "search" and "best_params" not in result:
        return _lines(result)
    return _TABLES.get(verb, _run)(result)


def fitted(text: str, columns: int) -> str:
    """Lines longer than a terminal is wide, broken between words and gone on below where their value begins.

    Words stay whole, and so do lines that are commands to copy.
    """
    lines = []
    for line in text.splitlines():
        if len(line) <= columns or line.startswith("export "):
            lines.append(line)
            continue
        label = re.match(r" *\S.{0,16}? {2,}", line)
        indent = label.end() if label else len(line) - len(line.lstrip()) + 2
        below = " " * indent
        lines += textwrap.wrap(line, columns, subsequent_indent=below, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _lines(result: dict[str, Any]) -> str:
    values = {k: ", ".join(map(str, v)) if isinstance(v, list | tuple) else v for k, v in result.items()}
    values |= {k: ", ".join(f"{n} {what}" for what, n in v.items()) for k, v in result.items() if isinstance(v, dict)}
    return "\n".join(
        f"{key.replace('_', ' '):<16} {one_line(str(value))}"
        for key, value in values.items()
        if value not in (None, "")
    )


def _proposal(result: dict[str, Any]) -> str:
    file = shlex.quote(result["configuration"])
    return f"{result['text']}\nwritten to {file}; next: `bertft check {file}`, `bertft run {file}`"


def _night(result: dict[str, Any]) -> str:
    lines = [f"{result['name']}  night {result['night']}: {result['outcome']}", f"reason       {result['reason']}"]
    if result["run_id"]:
        lines.append(f"run          {result['run_id']}, version {result['version']}")
    facts = {k: v for k, v in result["facts"].items() if not k.startswith("seconds_")}
    lines.append("rows         " + ", ".join(f"{k.replace('_', ' ')} {_short(v)}" for k, v in facts.items()))
    return "\n".join([*lines, f"seconds      {result['seconds']:.0f}"])


def _deployments(result: dict[str, Any]) -> str:
    lines = [f"{one['name']:<40}{one['id']}" for one in result["deployments"]]
    nights = f"{result['cron']} ({result['timezone']}); one at a time, collision: {result['collision']}"
    hints = {"nights": nights, "worker": result["worker"], "a night now": result["now"]}
    return "\n".join([*lines, *(f"{what:<13}{text}" for what, text in hints.items())])


def _nights(result: dict[str, Any]) -> str:
    if not result["nights"]:
        return "\n".join([f"{result['name']}: no night yet", *result["unreadable"]])
    lines = [f"{'night':<11}{'outcome':<19}{'version':>8}{'rows':>8}{'new':>7}{'seconds':>9}  reason"]
    for night in result["nights"]:
        facts = night["facts"]
        numbers = f"{night['version'] or '-':>8}{facts.get('rows', '-'):>8}{facts.get('new', '-'):>7}"
        reason = textwrap.shorten(night["reason"], 110, placeholder=" …")
        lines.append(f"{night['night']:<11}{night['outcome']:<19}{numbers}{night['seconds']:>9.0f}  {reason}")
    return "\n".join([*lines, *(f"unreadable: {fault}" for fault in result["unreadable"])])


def _board(result: dict[str, Any]) -> str:
    lines = [f"board        {result['board']}"]
    lines += [f"address      {result['address']}"] if result["address"] else []
    lines += [f"fault        {one_line(fault)}" for fault in result["faults"]]
    lines.append(f"models       {', '.join(result['models']) or 'none yet'}")
    for one in result["waiting"]:
        lines += [f"waits        {one['model']}: {one_line(one['what'])}", f"             {one['command']}".rstrip()]
    return "\n".join(lines)


def _run(result: dict[str, Any]) -> str:
    lines = [f"{result['name']}  run {result['run_id']}"]
    lines += [f"warning      {result['fault']}"] if result.get("fault") else []
    if "version" in result:
        verdict = "promoted" if result["promoted"] else "not promoted"
        lines.append(f"model        {result['registered_model']} version {result['version']}: {verdict}")
        lines.append(f"reason       {result['reason']}")
    if result.get("best_params"):
        shown = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in result["best_params"].items())
        lines.append("parameters   " + ", ".join(shown))
    if adaptation := result.get("adaptation"):
        lines.append(f"adaptation   {adaptation['text']}")
        lines += [f"             {gain}"] if (gain := result.get("adaptation_gain")) else []
    if search := result.get("search"):
        score = "no score" if search["score"] is None else f"score {search['score']:.4f}"  # no trial trained
        lines.append(f"search       trial {search['trial']}, {score}: {search['chosen_by']}")
        if search["optimism"] is not None:
            lines.append(f"             best single score less its mean of further seeds: {search['optimism']:+.4f}")
        lines += [f"see          {search['report']}", f"see          {search['dashboard']}"]
    if "metric" in (test := result.get("test", {})):  # not where an older bertft finished the run
        lines += _test(test, result.get("numbers", {}))
    lines.append("seconds      " + ", ".join(f"{k} {v:.0f}" for k, v in result["seconds"].items()))
    lines += [f"see          {line}" for line in result.get("look", [])]
    return "\n".join(lines)


def _test(test: dict[str, Any], numbers: dict[str, Any]) -> list[str]:
    """Scores on the test rows; by the one that decides the differences to the TF-IDF baseline and to the champion."""
    groups = f" in {counted(test['groups'], 'group')}" if test.get("groups") else ""
    lines = [f"test         n {test['n']}{groups}, {metric_title(test['metric'])} decides"]
    for metric in METRICS:
        if metric in test:
            why = test.get("no_interval", {}).get(metric, "")
            value, interval = test[metric], _interval(test[f"{metric}_interval"], why=why)
            lines.append(f"  {metric_title(metric):<11}{value:.4f}  {interval}".rstrip())
    rivals = {"TF-IDF baseline": [test[f"baseline_{part}"] for part in ("score", "score_difference", "score_interval")]}
    if "difference" in numbers:
        rivals["champion"] = [numbers.get(part) for part in ("champion_score", "difference", "interval")]
    negated = ", negated" if test["metric"] in LOWER_IS_BETTER else ""
    for name, (score, difference, interval) in rivals.items():
        gap = f"model minus {name}{negated}: {difference:+.4f} {_interval(interval, '+.4f', NO_SPREAD)}"
        lines.append(f"  {name.split()[0]:<11}{as_score(test['metric'], score):.4f}  {gap}")
    if blend := test.get("blend"):
        gap = f"{blend['encoder_difference']:+.4f} {_interval(blend['encoder_difference_interval'], '+.4f')}"
        lines.append(f"  blend      {blend['weights']}; encoder alone minus TF-IDF baseline, accuracy: {gap}")
    return lines


def _interval(bounds: Any, form: str = ".4f", why: str = "") -> str:
    return why if bounds is None else f"[{bounds[0]:{form}}, {bounds[1]:{form}}]"


def _plan(plan: dict[str, Any]) -> str:
    lines = [f"{plan['name']}: {plan['data']}", "", "split        rows   cut    p50    p90    p99    max"]
    for row in plan["splits"]:
        cells = "".join(f"{row[k]:>7}" for k in ("rows", "cut", "p50", "p90", "p99", "max"))
        lines.append(f"{row['split']:<10}{cells}")
    lines += _classes(plan["rows_by_class"])
    if preset := plan["preset"]:
        lines += ["", f"preset       {preset['name']}: {preset['source']}"]
        lines += [f"  {key:<29}{_short(value)}" for key, value in preset["values"].items()]
        replaced = ", ".join(f"{key} {_short(value)}" for key, value in preset["replaced"].items())
        lines += [f"  replaced by the configuration: {replaced}"] if replaced else []
    lines += ["", f"encoder      {plan['encoder']}", f"weights      {plan['weights']}"]
    lines += [f"tokenizer    {plan['tokenizer']}"]
    lines += [f"features     {plan['features']}"] if plan["features"] else []
    lines += [f"{'layer':<12}{'lr':>11}{'decay':>8}{'thaws at':>10}"]
    for row in plan["layers"]:
        thaws = "never" if row["thaws_at"] is None else f"{row['thaws_at']:.0%}"
        lines.append(f"{row['name']:<12}{row['lr']:>11.3g}{row['weight_decay']:>8g}{thaws:>10}")
    lines += ["", f"rates        {plan['rates']}", f"fit          {plan['fit']}, {counted(plan['steps'], 'step')}"]
    lines += [f"auto         {plan['auto']}"] if plan["auto"] else []
    lines += [f"adaptation   {plan['adaptation']}"] if plan["adaptation"] else []
    lines += [
        f"search       {plan['search']}",
        f"blend        {plan['blend']}",
        f"time         {plan['minutes']}",
        f"disk         {plan['disk']}",
        f"register     {plan['register']}",
        *[f"warning      {w}" for w in plan["warnings"]],
    ]
    return "\n".join(lines)


def _classes(counts: dict[str, dict[str, int]]) -> list[str]:
    """Rows of each class by split, the rarest last; of many classes the first and the last."""
    names = sorted(counts["train"], key=lambda name: -sum(rows[name] for rows in counts.values()))
    lines = ["", f"{'class':<24}" + "".join(f"{split:>12}" for split in counts)]
    left_out = len(names) - 2 * _SHOWN_CLASSES
    for i, name in enumerate(names):
        if left_out <= 1 or not _SHOWN_CLASSES <= i < len(names) - _SHOWN_CLASSES:
            shown = name if len(name) <= 23 else f"{name[:22]}…"
            lines.append(f"{shown:<24}" + "".join(f"{rows[name]:>12}" for rows in counts.values()))
        elif i == _SHOWN_CLASSES:
            lines.append(f"… {left_out} more classes")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _release(result: dict[str, Any]) -> str:
    move = f"{result['champion_before'] or 'none'} -> {result['champion_after'] or 'none'}"
    lines = [f"model        {result['registered_model']} version {result['version']}: {result['outcome']}"]
    lines += [f"champion     {move}", f"reason       {result['reason']}", f"by           {result['by']}"]
    if barred := result.get("barred"):  # of resume
        name, versions = result["registered_model"], ", ".join(barred)
        force = f'`bertft promote {name} {barred[-1]} --force --reason "…"`'
        lines.append(f"barred       version {versions} was rolled back and stays so; only {force} promotes it")
    return "\n".join([*lines, *(f"see          {line}" for line in result["look"])])


def _history(result: dict[str, Any]) -> str:
    held = ", ".join(f"{alias} {version}" for alias, version in sorted(result["aliases"].items())) or "none"
    lines = [f"{result['registered_model']}  aliases: {held}"]
    lines += [f"lost         {result['lost']}"] if result["lost"] else []
    lines += [f"hold         {result['hold']}"] if result["hold"] else []
    lines += ["", f"{'no.':>4}  {'at':<20}  {'action':<11} {'version':>7}  {'champion':<13} by"]
    for entry in result["entries"]:
        move = f"{entry['from_version'] or 'none'} -> {entry['to_version'] or 'none'}"
        action = entry["action"] if entry["state"] == "done" else entry["state"]
        lines.append(
            f"{entry['number']:>4}  {entry['at']:<20}  {action:<11} {entry['version']:>7}  {move:<13} {entry['by']}"
        )
        lines.append(f"      {entry['reason']}")
    if result["repaired"]:
        lines.append(f"repaired now: entries {', '.join(map(str, result['repaired']))}")
    return "\n".join(lines)


def _comparison(result: dict[str, Any]) -> str:
    first, second = (f"version {v}" for v in result["versions"])
    lines = [
        f"{result['registered_model']}: {second} against {first} on "
        f"{rows_text(result['n'], result['groups'])} of {result['data']}",
        "",
    ]
    lines.append(f"{'':<10}{first:>12}{second:>12}{'difference':>12}  {result['level'] * 100:g} % interval")
    for metric, paired in result["differences"].items():
        pair = None if paired["low"] is None else (paired["low"], paired["high"])
        scores = f"{result['first'][metric]:>12.4f}{result['second'][metric]:>12.4f}"
        name = score_column(metric)  # higher is better in every row
        lines.append(f"{name:<10}{scores}{paired['difference']:>+12.4f}  {_interval(pair, '+.4f', NO_SPREAD)}")
    lines += [
        "",
        f"right only in {first}: {result['first_only']}, only in {second}: {result['second_only']}; "
        f"{'permutation' if result['groups'] else 'exact McNemar'} p {result['p_value']:.3g}",
    ]
    lines += [f"left out     {counted(n, 'row')}: {reason}" for reason, n in result["skipped"].items()]
    unknown = ", ".join(result["training_rows_unknown"])
    lines += [f"warning      what version {unknown} was trained on is not known"] if unknown else []
    lines.append(f"different answers on {counted(result['disagreements'], 'row')}")
    for row in result["shown"]:
        line = f"row {row['row']}: {row['label']}, answers {row['first']} and {row['second']}: {row['text']}"
        lines.append(f"  {one_line(line)}")
    return "\n".join(lines)


def _cheaper(result: dict[str, Any]) -> str:
    was, now = result["forms"]
    first, second = (f"version {form['version']}" for form in (was, now))
    form = result.get("student") or f"{first} as {result['runtime']}"
    lines = [f"{result['model']} version {now['version']}: {form}; not promoted"]
    lines.append(f"{'':<16}{first:>12}{second:>12}")
    for key, title in (("size_mb", "MB"), ("latency_ms", "ms, a row alone"), ("rows_per_second", "rows a second")):
        lines.append(f"{title:<16}{was[key]:>12.1f}{now[key]:>12.1f}")
    low, high = result["interval"]
    alike = counted(result["different_answers"], "different answer")
    lines += [
        f"{score_title(result['metric'])}  {result['difference']:+.4f} [{low:+.4f}, {high:+.4f}] against {first} on "
        f"{counted(result['n'], 'test row')}; {alike}, largest difference of a probability {result['largest_gap']:.1e}",
        f"next          bertft promote {result['model']} {now['version']}",
    ]
    return "\n".join(lines)


def _removals(result: dict[str, Any]) -> str:
    lines = [
        f"{'elsewhere' if r['size'] is None else size_text(r['size']):>10}  {r['kind']:<17} {r['name']}  ({r['why']})"
        for r in result["removals"]
    ]
    done = "removed" if result["applied"] else "would go; --apply removes them"
    lines += [f"note: {note}" for note in result["notes"]]
    total = f"{counted(len(result['removals']), 'item')}, {size_text(result['bytes'])}, {done}"
    policy = f"kept: {counted(result['keep'], 'past champion')}, everything younger than {result['days']:g} days"
    return "\n".join([*lines, f"{total} ({policy})"])


def _examination(result: dict[str, Any]) -> str:
    lines, left = [], Counter[str]()
    for one in result["findings"]:
        todo = f"mended: {one['mended']}" if one["mended"] else f"to do: {one['remedy']}" if one["remedy"] else ""
        lines += [f"{one['severity']:<8} {one['where']}: {one['found']}", *([f"         {todo}"] if todo else [])]
        left.update([one["severity"]] if not one["mended"] else [])
    if result["is_sound"]:
        return "\n".join([*lines, f"{result['home']} is sound"])
    mendable = sum(one["repairs_itself"] and not one["mended"] for one in result["findings"])
    hint = f"; --repair mends {mendable} of them" if mendable and not result["repaired"] else ""
    return "\n".join([*lines, f"{counted(left['error'], 'error')}, {counted(left['warning'], 'warning')}{hint}"])


def _stack(result: dict[str, Any]) -> str:
    lines = [f"{s['name']:<12} {s['address']:<28} pid {s['pid']:<8} {s['seconds']:>5.1f} s" for s in result["services"]]
    lines += [
        f"board        {result['board']}",
        f"store        {result['store']}",
        f"logs         {result['home']}/logs",
    ]
    if file := result["secret_file"]:
        lines.append(
            f"pages        ask for {result['user']} and the secret in {file} (Prefect's for both, with a colon)"
        )
    else:
        lines.append("OPEN         every account of this machine can run commands as you: no secret is asked for")
    lines += [f"all healthy after {result['seconds']:.1f} s; Ctrl-C here stops all. In another shell:"]
    exports = [f"export {name}={shlex.quote(value)}" for name, value in result["environment"].items()]
    if file:  # neither this page nor a process list shows it
        read = f'"$(cat {shlex.quote(file)})"'
        exports += [f"export PREFECT_API_AUTH_STRING={result['user']}:{read}"]
        exports += [f"export MLFLOW_TRACKING_USERNAME={result['user']} MLFLOW_TRACKING_PASSWORD={read}"]
    return "\n".join([*lines, *exports])


_TABLES = {
    "predict": _lines,
    "label": _lines,
    "report": _lines,
    "check": _plan,
    "init": _proposal,
    "promote": _release,
    "rollback": _release,
    "resume": _release,
    "adopt": _release,
    "export": _cheaper,
    "distill": _cheaper,
    "history": _history,
    "compare": _comparison,
    "gc": _removals,
    "doctor": _examination,
    "nightly": _night,
    "nights": _nights,
    "board": _board,
    "deploy": _deployments,
    "serve": _lines,
    "up": _stack,
}  # the other verbs answer with a run
