"""What people may see: every way a secret is written is found, every sign that a terminal obeys is shown as text."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import time
import traceback
from urllib.parse import quote, quote_plus

import pytest

from bertft_core.base.display import cleaned, masked, visible, visible_json, without_credentials
from bertft_core.base.errors import BertftError, InputError, MaskedFault, fault_text, no_secrets

PASSWORD = "p@ss/w:rd #ü%41'\"Zx7"
URL = f"postgresql+psycopg://me:{quote(PASSWORD, safe='')}@host:5432/db"


@pytest.mark.parametrize(
    "text",
    [
        "http://me:hidden1@host:5000/x",
        "http://me:hi/dden1@host/x",
        "http://me:hi#dden1@host/x",
        "postgresql://me:hi@hidden1@host/db",
        "url='postgresql://me:hid'hidden1@host/db'",
        "https://host/x?token=hidden1&y=1",
        "https://host/x?X-Amz-Signature=hidden1",
        "host=db password=hidden1 user=me",
        "Authorization: Basic hidden1==",
        "{'Authorization': 'Bearer hidden1'}",
        "two: http://a:hidden1@b and redis://:hidden1@c",
    ],
)
def test_a_secret_is_masked_by_its_place(text: str) -> None:
    shown = masked(text, environ={})
    assert "hidden1" not in shown and "dden1" not in shown and "***" in shown


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/path@x",
        "models:/news@champion",
        "sqlite:////home/a@b/mlflow.db",
        "see http://127.0.0.1:4200, or mail me@host",
        "s3://bucket/key",
        "token classification needs a run_id",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text, environ={}) == text


@pytest.mark.parametrize(
    "write",
    [
        str,
        lambda s: quote(s, safe=""),
        lambda s: quote(quote(s, safe=""), safe=""),
        quote_plus,
        lambda s: re.sub("%..", lambda code: code[0].lower(), quote(s, safe="")),
        lambda s: json.dumps(s),
        lambda s: json.dumps(s, ensure_ascii=False),
        repr,
        html.escape,
        lambda s: base64.b64encode(f"me:{s}".encode()).decode(),
    ],
)
@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_PASSWORD", "BERTFT_STORAGE"])
def test_a_value_of_the_environment_is_found_as_it_is_written(variable: str, write) -> None:
    value = PASSWORD if variable.endswith("PASSWORD") else URL
    environ = {variable: value, "MLFLOW_TRACKING_USERNAME": "me"}
    shown = masked(f"it said {write(PASSWORD)}!", environ=environ)
    assert shown in ("it said ***!", 'it said "***"!', "it said '***'!")


def test_the_names_of_secret_variables() -> None:
    secret = "Zx7-Kq9-value"
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "PREFECT_API_AUTH_STRING",
        "HF_TOKEN",
        "MY_WEBHOOK",
        "PGPASSWORD",
        "X_API_KEY",
    ):
        assert masked(f"a {secret} b", environ={name: secret}) == "a *** b", name
    for name in ("PWD", "OLDPWD", "SSH_AUTH_SOCK", "TOKENIZERS_PARALLELISM", "HOME", "AWS_SHARED_CREDENTIALS_FILE"):
        assert masked(f"a {secret} b", environ={name: secret}) == f"a {secret} b", name
    headers = json.dumps({"Proxy-Authorization": f"Bearer {secret}"})
    assert masked(f"a {secret} b", environ={"PREFECT_CLIENT_CUSTOM_HEADERS": headers}) == "a *** b"
    assert masked("a user:Zx7-Kq9 Zx7-Kq9", environ={"PREFECT_API_AUTH_STRING": "user:Zx7-Kq9"}) == "a *** ***"


def test_a_password_that_is_a_word_is_masked_as_a_word() -> None:
    assert masked("postgresql and postgres", environ={"PGPASSWORD": "postgres"}) == "postgresql and ***"
    assert masked("1 true row 42", environ={"A_TOKEN": "1", "B_TOKEN": "true", "C_KEY": "42"}) == "1 true row 42"


def test_a_link_that_is_to_be_opened_holds_no_user() -> None:
    assert without_credentials("http://me:hidden@host:5000/#/models") == "http://host:5000/#/models"


@pytest.mark.parametrize("sign", ["\x1b", "\x00", "\x07", "\r", "\x7f", "\x9b", "\u2028", "\u202e", "\u2066", "\udc80"])
def test_a_sign_that_a_terminal_obeys_is_shown(sign: str) -> None:
    shown = visible(f"a{sign}b")
    assert sign not in shown and shown.startswith("a\\") and shown.isprintable()
    document = visible_json(json.dumps({"x": f"a{sign}b"}, ensure_ascii=False))
    assert json.loads(document) == {"x": f"a{sign}b"}
    assert sign not in document


def test_text_of_people_stays() -> None:
    text = "Zeile\tzwei\nשלום مرحبا 👩\u200d🔬 \u2014 ﷺ"
    assert visible(text) == text


def test_an_error_holds_no_secret_in_any_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    fault = InputError(f"{URL} and {PASSWORD} \x1b[2J")
    for view in (str(fault), repr(fault), f"{fault.args}", "".join(traceback.format_exception(fault))):
        assert PASSWORD not in view and quote(PASSWORD, safe="") not in view and "\x1b" not in view
    assert fault_text(ValueError(URL)) == "ValueError: postgresql+psycopg://***@host:5432/db"


def test_what_an_error_came_from_is_masked_at_a_border(caplog: pytest.LogCaptureFixture) -> None:
    for raised in (BertftError, KeyError):
        with pytest.raises((BertftError, MaskedFault)) as caught, no_secrets():
            try:
                raise ConnectionError(f"no answer from {URL}")
            except ConnectionError as fault:
                raise raised("it failed") from fault
        logging.getLogger("x").exception("fell: %r", caught.value, exc_info=caught.value)
        assert "w%3Ard" not in caplog.text and "no answer from postgresql+psycopg://***@host" in caplog.text
    with pytest.raises(KeyError), no_secrets():
        raise KeyError("no secret: the error stays what it is")


@pytest.mark.parametrize("part", ["?token", "://a:b", "&key", "a:b@", "\x1b", "authorization: ", "://x:1"])
def test_a_long_answer_is_cleaned_in_a_moment(part: str) -> None:
    """A server writes what it likes into an error: no pattern may take its time."""
    begun = time.process_time()
    cleaned("=" + part * 20_000)
    assert time.process_time() - begun < 5
