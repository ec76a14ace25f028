"""The inputs of silent_damage.py: kind, name, what is to be said, and what to do with it."""

from __future__ import annotations

import gzip
import json
import lzma

from silent_making import (
    DATES,
    MARKED,
    PLAIN,
    ROWS,
    Input,
    added_token,
    answered,
    compared,
    configured,
    copies,
    dated,
    encoded,
    flipped,
    lines,
    logged,
    model_name,
    names,
    packed,
    spelt,
    table,
    tokenized,
    tokenizer,
    weight_file,
    written,
)


def wrapper(prefix: str) -> str:
    """What is taken off: all but what a classifier of transformers calls its encoder."""
    return prefix.removesuffix("bert.")


OUT = "of the encoder from the file"
INPUTS = [
    *(
        Input(
            1,
            f"names under {p}",
            rf"^39 of 39 tensors {OUT}; .*prefix {wrapper(p)!r} taken off",
            names(lambda n, t, p=p: {p + n: t}),
        )
        for p in (
            "module.",
            "_orig_mod.",
            "0.auto_model.",
            "encoder_model.",
            "module.module.",
            "base_model.model.",
            "student.bert.",
        )
    ),
    Input(
        1,
        "a layer's tensors are missing",
        "only 23 of 39 tensors .* came from its file",
        names(lambda n, t: {} if "layer.1." in n else {n: t}),
    ),
    Input(
        1,
        "a matrix is transposed",
        r"only \d+ of 39 .*config.json",
        names(lambda n, t: {n: t.T if "intermediate.dense.weight" in n else t}),
    ),
    Input(1, "more layers in config.json", "only 39 of 71 tensors", names(lambda n, t: {n: t}, num_hidden_layers=4)),
    Input(1, "another vocabulary in config.json", "word_embeddings.weight", names(lambda n, t: {n: t}, vocab_size=300)),
    Input(
        1,
        "unmerged adapter names",
        "merge_and_unload",
        names(lambda n, t: {n.replace(".query.", ".query.base_layer."): t}),
    ),
    Input(
        1,
        "teacher and student in one file",
        "2 encoders, under student., teacher.",
        names(lambda n, t: {f"teacher.{n}": t, f"student.{n}": t.clone()}),
    ),
    Input(
        1,
        "one infinite number",
        "1 of .* NaN or infinite",
        names(
            lambda n, t: {
                n: t.index_fill(0, t.new_zeros(1).long(), float("inf"))
                if n.endswith("layer.0.output.dense.bias")
                else t
            }
        ),
    ),
    Input(
        1,
        "a Git LFS pointer",
        "git lfs pull",
        weight_file(lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")),
    ),
    Input(
        1,
        "weights that are cut off",
        "is damaged: its header speaks of",
        weight_file(lambda f: f.write_bytes(f.read_bytes()[:-9])),
    ),
    Input(
        1,
        "weights in another format",
        "save_pretrained",
        weight_file(lambda f: f.rename(f.with_name("pytorch_model.bin"))),
    ),
    Input(2, "a token beyond the embeddings", "'<url>' with id 176, lie beyond the 176 rows", tokenizer(added_token)),
    Input(
        2,
        "no post-processor",
        "no special token before and after a text",
        tokenizer(lambda t: t.update(post_processor=None)),
    ),
    Input(
        2,
        "padding beyond the embeddings",
        "pad_token_id 500 of config.json lies beyond",
        tokenizer(lambda t: None, pad_token_id=500),
    ),
    Input(2, "a tokenizer file cut off", "not readable as a tokenizer", tokenizer(lambda t: t.pop("model"))),
    Input(
        2,
        "only [SEP] behind a text",
        "no special token before a text",
        tokenizer(lambda t: t["post_processor"]["single"].pop(0)),
    ),
    Input(
        2,
        "a word missing in the middle of the ids",
        r"tokens for 176 rows",
        tokenizer(lambda t: t["model"]["vocab"].pop("award")),
    ),
    Input(
        3, "marks at two ends, no quoting", "300 read, 300 used.*without quoting", written("rows.tsv", lines(*MARKED))
    ),
    Input(3, "the same with Windows line ends", "300 read, 300 used", written("rows.tsv", lines(*MARKED, end="\r\n"))),
    Input(
        3,
        "the same, called standard",
        "41 rows inside a quoted field",
        written("rows.tsv", lines(*MARKED), quoting="standard"),
    ),
    Input(
        3,
        "a mark that is never closed",
        "300 read, 300 used",
        written("rows.tsv", lines(*PLAIN[:200], '"' + PLAIN[200], *PLAIN[201:])),
    ),
    Input(
        3, "inches in the middle of a text", "301 read, 301 used", written("rows.tsv", lines(*PLAIN, 'a 19" rack\tpos'))
    ),
    Input(3, "a text that is one mark", "301 read, 301 used", written("rows.tsv", lines(*PLAIN, '"\tpos'))),
    *(
        Input(4, name, "^200 read, 200 used.*150 filtered" if n < 5 else "date|refused", dated(value))
        for n, (name, value) in enumerate(DATES.items())
    ),
    Input(5, "case", "'Spam' .* 'spam' .*differ by case or spaces alone", spelt("Spam", "spam", "ham")),
    Input(5, "composed and decomposed", "classes a \u00e9t\u00e9;", spelt("\u00e9t\u00e9", "e\u0301te\u0301", "a")),
    Input(5, "a zero-width space", "classes ham spam;", spelt("spam", "spam\u200b", "ham")),
    Input(5, "1 and 1.0", "classes 0 1;", spelt(1, 1.0, 0)),
    Input(5, "true and 'True'", "classes false true;", spelt(True, "True", False)),
    Input(5, "spaces at the ends", "classes ham spam;", spelt("spam", " spam ", "ham")),
    Input(5, "merged on request", "classes ham spam;", spelt("Spam", "SPAM", "ham", merge_labels="casefold")),
    Input(5, "'1' and 1", "classes 0 1;", spelt(1, "1", "0")),
    Input(
        6,
        "zero-width signs alone",
        "^0 twins.*20 empty text",
        tokenized([*ROWS, *(("\u200b" * (i + 1), "ab"[i % 2]) for i in range(20))]),
    ),
    Input(
        6,
        "a zero-width sign and the other label",
        "^0 twins.*200 conflicting labels",
        tokenized(flipped(lambda t: t[:4] + "\u200b" + t[4:])),
    ),
    Input(6, "a final !", "^0 twins.*400 used", tokenized(copies(lambda t: t + "!"))),
    Input(6, "a final full stop", "^0 twins.*rows? of train differ", tokenized(copies(lambda t: t + "."))),
    Input(
        6,
        "an accent and the other label",
        "^0 twins.*conflicting labels.*token ids of rows with another label",
        tokenized(flipped(lambda t: t.replace("film", "f\u00eflm"))),
    ),
    Input(6, "capital letters", "^0 twins.*100 duplicates", tokenized(copies(str.upper))),
    Input(
        6,
        "a sign that the vocabulary lacks",
        "^0 twins.*token ids of a validation or test row",
        tokenized([*copies(lambda t: t + " \U0001f600"), *((t + " \U0001f621", label) for t, label in ROWS[:100])]),
    ),
    Input(
        6,
        "texts that differ behind the cut",
        r"^[1-9]\d* twins.*once cut to tokenization.max_length: they stay",
        tokenized(
            [(f"film {i % 120} {'a ' * 20}{i}", "ab"[i % 2]) for i in range(360)],
            tokenization={"max_length": 12, "truncation": "head"},
        ),
    ),
    Input(
        6,
        "spaces before punctuation",
        "^0 twins",
        tokenized(copies(lambda t: t.replace(" is", " , is")) + copies(lambda t: t.replace(" is", ", is"))[300:]),
    ),
    Input(7, "cp1252", "read as cp1252.*u20ac", written("rows.csv", encoded("\u20ac \u2019s", "cp1252"))),
    Input(7, "latin-1", "read as latin-1.*xe9", written("rows.csv", encoded("caf\u00e9", "latin-1"))),
    Input(7, "UTF-16 without a mark", "300 used.*u0436", written("rows.csv", encoded("\u0436", "utf-16-le"))),
    Input(
        7, "UTF-8 with a mark", "300 used.*text is '0 .{2}0436'", written("rows.csv", encoded("\u0436", "utf-8-sig"))
    ),
    Input(
        7,
        "one bad byte in UTF-8",
        "refused: .*byte .* is no UTF-8",
        written("rows.csv", encoded("\u0436", "utf-8").replace(b"\xd0", b"\xff", 1)),
    ),
    Input(7, "cp1251 by name", "u0436", written("rows.csv", encoded("\u0436", "cp1251"), encoding="cp1251")),
    Input(
        8,
        "a slice called 'ends with ?'",
        " 0 with",
        logged("data: {source: r.csv}\nevaluation: {slices: {'ends with ?': '[?]$'}}"),
    ),
    Input(
        8,
        "a column called 'status (final)'",
        " 0 with",
        logged("data: {source: r.csv, where: {'status (final)': done}}"),
    ),
    Input(
        8,
        "classes C++ and R&D",
        " 0 with",
        logged("data: {source: r.csv}\ntraining: {class_weights: {C++: 2, 'R&D': 1}}"),
    ),
    Input(
        8,
        "a class of 300 letters",
        " 0 with",
        logged(f"data: {{source: r.csv}}\ntraining: {{class_weights: {{{'x' * 300}: 2}}}}"),
    ),
    Input(8, "costs of C# and ..", " 0 with", logged("data: {source: r.csv}\ndecision: {costs: {C#: {..: 1}}}")),
    *(
        Input(
            8,
            f"registered_model {name!r}",
            "refused: .*registered_model",
            lambda folder, name=name: model_name(folder, name),
        )
        for name in ("nlp/{name}", "a:{name}", "o'neil", "{name}\n")
    ),
    Input(9, "an empty text among others", "^3 rows out, 2 answered", answered(b'text\ngood\n""\nbad\n')),
    Input(
        9,
        "zero-width signs among others",
        "^3 rows out, 2 answered",
        answered("text\ngood\n\u200b\u200b\nbad\n".encode()),
    ),
    Input(
        9,
        "a record with broken quoting",
        "^3 rows out, 2 answered.*broken quoting",
        answered(b'id,text\n1,"good, or so"\n2,"bad" x\n3,fine\n'),
    ),
    Input(
        9,
        "a row with too many fields",
        "^3 rows out, 2 answered.*wrong number of fields",
        answered(b"id,text\n1,good\n2,bad,x,y\n3,fine\n"),
    ),
    Input(10, "texts twice", "^600 rows, 300 texts", compared([*ROWS, *ROWS])),
    Input(10, "copies with a zero-width sign", "^600 rows, 300 texts", compared(copies(lambda t: "\ufeff" + t, 300))),
    Input(
        10,
        "an unknown class and an empty text",
        "^300 rows.*skipped .*empty text",
        compared([*ROWS, ("x", "z"), ("", "a")]),
    ),
    Input(
        11, "classes 010 and 020", r"classes \['010', '020'\]", configured("data: {source: r.csv, classes: [010, 020]}")
    ),
    Input(
        11,
        "classes 12:30 and 1_000",
        r"classes \['12:30', '1_000'\]",
        configured("data: {source: r.csv, classes: [12:30, 1_000]}"),
    ),
    Input(
        11, "classes yes and off", r"classes \['yes', 'off'\]", configured("data: {source: r.csv, classes: [yes, off]}")
    ),
    Input(
        11,
        "costs of whole numbers",
        r"costs \{'0': \{'1'",
        configured("data: {source: r.csv}\ndecision: {costs: {0: {1: 5}}}"),
    ),
    Input(
        11,
        "a class that is a date",
        r"classes \['2024-01-01', 'b'\]",
        configured("data: {source: r.csv, classes: [2024-01-01, b]}"),
    ),
    Input(12, "gzip", "300 used", packed(gzip.compress, "rows.csv.gz")),
    Input(12, "xz", "300 used", packed(lzma.compress, "rows.csv.xz")),
    Input(12, "zip", "300 used", packed(None, "rows.zip")),
    Input(12, "gzip under the name of a table", "300 used", packed(gzip.compress, "rows.csv")),
    Input(
        12, "gzip that is cut off", "refused: .*rows.csv.gz", packed(lambda b: gzip.compress(b)[:-40], "rows.csv.gz")
    ),
    Input(
        12,
        "sep=; above the header",
        "300 used",
        written("rows.csv", "sep=;\ntext;label\n" + "".join(f"{t};{y}\n" for t, y in ROWS)),
    ),
    Input(
        12,
        "comment lines above the header",
        "300 used",
        written("rows.csv", "# made by hand\n# in May\ntext,label\n" + "".join(f"{t},{y}\n" for t, y in ROWS)),
    ),
    Input(12, "a JSON array", "300 used", written("rows.json", json.dumps([{"text": t, "label": y} for t, y in ROWS]))),
    Input(
        12,
        "JSON by columns",
        "300 used",
        written("rows.json", json.dumps({"text": [t for t, _ in ROWS], "label": [y for _, y in ROWS]})),
    ),
    Input(12, "a cell of 21 million signs", "1 field too long", table([*ROWS, ("x" * 21_000_000, "a")])),
]
