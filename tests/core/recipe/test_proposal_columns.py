"""Which columns are text, label, date and group: shapes of tables as people have them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bertft_core.base.errors import DataError
from bertft_core.recipe.proposal.columns import Guess, guess_columns
from bertft_core.recipe.proposal.sample import read_sample

TEXT = "the printer on our floor does not answer since monday and nobody can send an invoice to a customer"
WORDS = TEXT.split()
CITIES = ("Berlin", "Lyon", "Turin", "Graz", "Porto", "Gent")


def sentence(i: int, n: int = 12) -> str:
    """A text of n words and a number, another for each i."""
    return " ".join(WORDS[(i * 7 + k * (1 + i % 5)) % len(WORDS)] for k in range(n)) + f" {i}"


@pytest.fixture
def guess(tmp_path: Path) -> Callable[..., Guess]:
    """The guess for a table of 120 rows, given as {column: value of row i}."""

    def make(
        columns: dict[str, Callable[[int], Any]],
        *,
        suffix: str = "csv",
        n: int = 120,
        header: bool = True,
        label: Sequence[str] = (),
        **said: Any,
    ) -> Guess:
        file = tmp_path / f"table.{suffix}"
        rows = [{name: value(i) for name, value in columns.items()} for i in range(n)]
        with open(file, "w", encoding="utf-8", newline="") as handle:
            if suffix == "jsonl":
                handle.writelines(json.dumps(row) + "\n" for row in rows)
            else:
                writer = csv.DictWriter(handle, list(columns), delimiter={"csv": ",", "tsv": "\t"}[suffix])
                if header:
                    writer.writeheader()
                writer.writerows(rows)
        return guess_columns(read_sample(str(file), tmp_path), label, **said)

    return make


def taken(found: Guess) -> dict[str, Any]:
    return {key: value for key, (value, _) in found.values.items()}


def test_text_and_label_by_their_names(guess: Callable[..., Guess]) -> None:
    found = guess({"text": sentence, "label": lambda i: "spam" if i % 3 else "ham"})
    assert taken(found) == {"text": "text", "label": "label"}
    assert found.values["label"][1] == "by its name; 2 classes, from 40 to 80 rows: 'spam', 'ham'"


def test_support_tickets_with_several_columns_of_classes_ask_for_the_label(guess: Callable[..., Guess]) -> None:
    tickets = {
        "Ticket No": lambda i: 4000 + i,
        "Subject": lambda i: sentence(i, 4),
        "Message Body": lambda i: sentence(i, 40),
        "Queue": lambda i: ("billing", "login", "shipping")[i % 3],
        "Priority": lambda i: ("low", "high")[i % 2],
    }
    with pytest.raises(DataError, match=r"'Queue' \(3 values: .*'Priority' \(2 values: .*say --label COLUMN"):
        guess(tickets)
    found = guess(tickets, label=["Queue"])
    assert taken(found) == {"text": "Message Body", "label": "Queue"}
    assert found.proposals["text_pair"][0] == "Subject"


def test_product_reviews_are_grouped_by_customer_and_dated(guess: Callable[..., Guess]) -> None:
    found = guess(
        {
            "review_id": lambda i: f"R{i:06}",
            "customer_id": lambda i: 10_000 + i % 40,
            "product_id": lambda i: f"B{i % 30:04}",
            "star_rating": lambda i: 1 + i * 7 % 5,
            "helpful_votes": lambda i: i % 23,
            "verified_purchase": lambda i: "NY"[i % 2],
            "review_title": lambda i: sentence(i, 3),
            "review_body": lambda i: sentence(i, 30),
            "review_date": lambda i: f"2026-0{1 + i % 9}-11",
        }
    )
    expected = {"text": "review_body", "label": "star_rating", "date": "review_date", "group": "customer_id"}
    assert taken(found) == expected


def test_export_of_kaggle_with_an_index_and_names_in_capitals(guess: Callable[..., Guess]) -> None:
    """Sentiment140, airline tweets: an index, ids, a label, a text, a place, a date that some rows lack."""
    found = guess(
        {
            "Unnamed: 0": lambda i: i,
            "TweetID": lambda i: 570_306_133_677_760_513 + i,
            "Airline_Sentiment": lambda i: ("neutral", "positive", "negative")[i % 3],
            "Name": lambda i: f"user{i}",
            "Text": sentence,
            "Tweet_Created": lambda i: "" if i == 7 else f"2026-02-24 11:{i % 60:02}:52 -0800".replace(" -", "-"),
            "Tweet_Location": lambda i: CITIES[i % 6],
        }
    )
    assert taken(found) == {"text": "Text", "label": "Airline_Sentiment"}
    assert found.proposals["date"][1] == "a date, but 1 of 120 rows have none, which would be left out"


def test_index_of_pandas_is_no_label(guess: Callable[..., Guess]) -> None:
    found = guess({"": lambda i: i, "v2": sentence, "v1": lambda i: "ham" if i % 4 else "spam"})
    assert taken(found) == {"text": "v2", "label": "v1"}


def test_two_texts_whose_names_belong_together_are_a_pair(guess: Callable[..., Guess]) -> None:
    for first, second in (("sentence2", "sentence1"), ("hypothesis", "premise"), ("question_b", "question_a")):
        found = guess({first: sentence, second: lambda i: sentence(i + 1), "label": lambda i: i % 2})
        assert taken(found) == {"text": second, "text_pair": first, "label": "label"}


def test_two_texts_of_like_length_ask_for_the_text(guess: Callable[..., Guess]) -> None:
    table = {"agent": sentence, "caller": lambda i: sentence(i + 1), "topic": lambda i: CITIES[i % 4]}
    with pytest.raises(DataError, match=r"'caller' \(12 words .*say --text COLUMN"):
        guess(table)
    assert taken(guess(table, text="caller"))["text"] == "caller"
    assert taken(guess(table, text="caller", text_pair="agent"))["text_pair"] == "agent"


def test_number_beside_the_name_of_a_class_is_the_same_label(guess: Callable[..., Guess]) -> None:
    names = ("World", "Sports", "Business")
    found = guess({"label": lambda i: i % 3, "text": sentence, "label_text": lambda i: names[i % 3]})
    assert taken(found)["label"] == "label_text"


def test_soft_labels_and_lists(guess: Callable[..., Guess]) -> None:
    table = {"text": sentence, "votes": lambda i: {"yes": i % 5, "no": 3}}
    assert taken(guess(table, suffix="jsonl"))["label"] == "votes"
    found = guess({"text": sentence, "p": lambda i: [0.2, 0.3, 0.5]}, suffix="jsonl")
    assert taken(found) == {"text": "text", "label": "p", "classes": ["0", "1", "2"]}
    found = guess({"text": sentence, "tags": lambda i: json.dumps([CITIES[i % 6], CITIES[i % 5]])})
    assert (taken(found)["label"], found.values["label"][1]) == ("tags", "a list of labels: a row has any of them")


def test_columns_of_flags_are_one_label_of_many(guess: Callable[..., Guess]) -> None:
    flags = {name: (lambda i, k=k: int(i % (k + 2) == 0)) for k, name in enumerate(("toxic", "obscene", "threat"))}
    found = guess({"id": lambda i: f"{i:016x}", "comment_text": sentence, **flags})
    assert taken(found) == {"text": "comment_text", "label": ["toxic", "obscene", "threat"]}


def test_id_that_repeats_is_no_label(guess: Callable[..., Guess]) -> None:
    found = guess({"agent_id": lambda i: i % 4, "note": sentence, "outcome": lambda i: "won" if i % 2 else "lost"})
    assert taken(found)["label"] == "outcome"
    with pytest.raises(DataError, match=r"no column looks like a label .*say --label COLUMN, one of 'agent_id'"):
        guess({"agent_id": lambda i: i % 4, "note": sentence})


def test_labels_that_are_sentences_are_labels(guess: Callable[..., Guess]) -> None:
    intents = ("I want to close my account", "where is my parcel", "how do I pay")
    found = guess({"utterance": sentence, "what they want": lambda i: intents[i % 3]})
    assert taken(found) == {"text": "utterance", "label": "what they want"}


def test_ratings_as_words_and_numbers_are_classes_and_fractions_are_not(guess: Callable[..., Guess]) -> None:
    assert taken(guess({"stars": lambda i: f"{1 + i % 5}.0", "review": sentence}))["label"] == "stars"
    with pytest.raises(DataError, match="regression is not supported"):
        guess({"score": lambda i: i / 7, "review": sentence}, label=["score"])


def test_table_without_a_header_is_said(guess: Callable[..., Guess]) -> None:
    for columns in (
        {"ham": lambda i: "ham" if i % 3 else "spam", "x": sentence},
        {"1": lambda i: i % 2, "x": sentence},
    ):
        with pytest.raises(DataError, match="the first line looks like a row, not like the names of the columns"):
            guess(columns, header=False)


def test_texts_without_spaces_and_of_other_scripts_are_texts(guess: Callable[..., Guess]) -> None:
    chinese = "这家餐厅的服务非常好我们下次还会再来"
    found = guess(
        {"评论": lambda i: chinese[i % 9 :] + chinese[: i % 9] * (1 + i % 3) + str(i), "标签": lambda i: i % 2}
    )
    assert taken(found) == {"text": "评论", "label": "标签"}


def test_rare_classes_are_left_out_and_said(guess: Callable[..., Guess]) -> None:
    found = guess({"text": sentence, "label": lambda i: "odd one" if i == 5 else CITIES[i % 2]})
    assert taken(found)["classes"] == ["Berlin", "Lyon"] and taken(found)["unknown_class"] == "drop"
    assert found.values["classes"][1] == "without 'odd one': 1 row in classes of fewer than 3"


def test_rows_without_label_raise_the_share_that_is_allowed(guess: Callable[..., Guess]) -> None:
    found = guess({"text": sentence, "label": lambda i: "" if i % 20 == 0 else CITIES[i % 2]})
    assert taken(found)["max_faulty_share"] == 0.06
    assert "max_faulty_share" not in taken(guess({"text": sentence, "label": lambda i: CITIES[i % 2]}))


def test_column_that_is_not_there_is_said_with_those_that_are(guess: Callable[..., Guess]) -> None:
    with pytest.raises(DataError, match=r"--label 'klass': no such column; found columns: 'text', 'label'"):
        guess({"text": sentence, "label": lambda i: i % 2}, label=["klass"])
