"""Keys and tokens never reach what a run writes down."""

from __future__ import annotations

import pytest

from expkit.secrets import mask_arguments, mask_secrets, mask_text


@pytest.mark.parametrize(
    "name",
    ["api_key", "apikey", "API_KEY", "WANDB_API_KEY", "wandb.api_key", "hf_token", "token", "client-secret", "password",
     "db_passwd", "credentials", "credential", "authorization", "AWS_SECRET_ACCESS_KEY", "key"],
)  # fmt: skip
def test_texts_of_secret_sounding_names_are_masked(name: str) -> None:
    assert mask_secrets({"a": [{name: "hunter2"}]}) == {"a": [{name: "***"}]}
    assert mask_secrets({name: ["hunter2", "hunter3"]}) == {name: ["***", "***"]}


@pytest.mark.parametrize(
    "harmless",
    [
        {"max_tokens": 100},
        {"tokenizer": "gpt2"},
        {"keys": "a,b"},
        {"monkey": "business"},
        {"keyboard": "de"},
        {"token": 5},
        {"api_key": None},
        {"api_key": ""},
        {"api_key": "${oc.env:WANDB_API_KEY}"},
        {"name": "secret"},
    ],
)
def test_what_holds_no_secret_stays(harmless: dict[str, object]) -> None:
    assert mask_secrets(harmless) == harmless


def test_the_configuration_itself_is_not_changed() -> None:
    config = {"wandb": {"api_key": "hunter2"}}
    mask_secrets(config)
    assert config == {"wandb": {"api_key": "hunter2"}}


@pytest.mark.parametrize(
    ("arguments", "masked"),
    [
        (["tracker.wandb.api_key=hunter2"], ["tracker.wandb.api_key=***"]),
        (["+api_key=hunter2"], ["+api_key=***"]),
        (["++tracker.wandb.api_key=a=b=c"], ["++tracker.wandb.api_key=***"]),
        (["--api-key=hunter2"], ["--api-key=***"]),
        (["--api-key", "hunter2", "--lr", "0.1"], ["--api-key", "***", "--lr", "0.1"]),
        (["--wandb_token", "hunter2"], ["--wandb_token", "***"]),
        (["--use-key", "--verbose"], ["--use-key", "--verbose"]),
        (["tracker.wandb={api_key:hunter2,project:x}"], ["tracker.wandb={api_key:***,project:x}"]),
        (["tracker.wandb={'api_key': 'hunter 2'}"], ["tracker.wandb={'api_key': ***}"]),
        (["tracker.wandb.api_key=${oc.env:KEY}"], ["tracker.wandb.api_key=${oc.env:KEY}"]),
        (["tracker.wandb={api_key:${oc.env:KEY}}"], ["tracker.wandb={api_key:${oc.env:KEY}}"]),
        (["train.py", "task=denoise", "max_tokens=5"], ["train.py", "task=denoise", "max_tokens=5"]),
        ([], []),
    ],
)  # fmt: skip
def test_secrets_on_the_command_line_are_masked(arguments: list[str], masked: list[str]) -> None:
    assert mask_arguments(arguments) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("RuntimeError: token=abc123 was refused", "RuntimeError: token=*** was refused"),
        ("cannot reach https://me:hunter2@host:8080/x", "cannot reach https://me:***@host:8080/x"),
        ("Authorization: Bearer abc.def", "Authorization: *** ***"),
        ("401 for 'Bearer abc.def'", "401 for 'Bearer ***'"),
        ("login failed for 0123456789abcdef", "login failed for ***"),
        ("no server at http://localhost:8080/x", "no server at http://localhost:8080/x"),
        ("KeyError: 'train_loss'", "KeyError: 'train_loss'"),
        ("RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x3 and 5x2)",) * 2,
    ],
)  # fmt: skip
def test_secrets_in_what_an_error_says_are_masked(monkeypatch: pytest.MonkeyPatch, text: str, masked: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("SHORT_KEY", "1")
    assert mask_text(text) == masked
