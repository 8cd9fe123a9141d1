"""Keys and tokens never reach what a run writes down."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch

from expkit.checkpoints import CheckpointManager
from expkit.secrets import MaskingFormatter, mask_arguments, mask_secrets, mask_text
from expkit.trackers import RunInfo


@pytest.mark.parametrize(
    "name",
    ["api_key", "apikey", "API_KEY", "WANDB_API_KEY", "wandb.api_key", "hf_token", "token", "client-secret", "password",
     "db_passwd", "credentials", "credential", "authorization", "AWS_SECRET_ACCESS_KEY", "key", "apiKey",
     "clientSecret", "dbPassword", "passphrase", "DB_PASS", "PGPASSWORD", "dbpasswd",
     "basic_auth", "webhook_url", "secrets", "api_keys", "dbPasswords"],
)  # fmt: skip
def test_texts_of_secret_sounding_names_are_masked(name: str) -> None:
    assert mask_secrets({"a": [{name: "hunter2"}]}) == {"a": [{name: "***"}]}
    assert mask_secrets({name: ["hunter2", "hunter3"]}) == {name: ["***", "***"]}


@pytest.mark.parametrize("name", ["keypad_token", "my_pad_token", "pad_token_key", "eos_secret", "mask_api_key"])
def test_only_the_tokens_of_a_text_are_none_that_let_in(name: str) -> None:
    assert mask_secrets({name: "hunter2"}) == {name: "***"}
    assert mask_text(f"{name}=hunter2") == f"{name}=***"


def test_all_texts_of_a_section_for_secrets_are_masked() -> None:
    config = {"secrets": {"a": "hunter2", "b": [{"c": "hunter3"}]}, "credentials": {"user": "me", "port": 5432}}
    masked = {"secrets": {"a": "***", "b": [{"c": "***"}]}, "credentials": {"user": "***", "port": 5432}}
    assert mask_secrets(config) == masked


@pytest.mark.parametrize(
    "harmless",
    [
        {"max_tokens": 100},
        {"tokenizer": "gpt2"},
        {"tokens": {"pad": "<pad>", "bos": 1}},
        {"pad_token": "<|endoftext|>", "task": {"mask_token": "[MASK]"}, "eos-token": "</s>"},
        {"command": "train --pad-token <pad> --unk_token=<unk>, eos_token: </s>"},
        {"keys": "a,b"},
        {"monkey": "business"},
        {"keyboard": "de"},
        {"token": 5},
        {"api_key": None},
        {"api_key": ""},
        {"api_key": "${oc.env:WANDB_API_KEY}"},
        {"name": "secret"},
        {"bypass": "all", "passes": "two", "author": "me", "monKey": 1},
        {"database": "postgres://me:${oc.env:DB_PASS}@host/x"},
        {"password": True, "secret": None},
        {"url": "https://host/x?page=2&tokens=3#top"},
        {"image": "ghcr.io/me/x:1", "remote": "git@github.com:me/x.git"},
        {"prompt": "the key to success is a secret that nobody passes on"},
    ],
)
def test_what_holds_no_secret_stays(harmless: dict[str, object]) -> None:
    assert mask_secrets(harmless) == harmless


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ({"password": 12345678}, {"password": "***"}),
        ({"database": "postgres://me:hunter2@host/x"}, {"database": "postgres://me:***@host/x"}),
        ({"dsn": f"https://{'0123456789abcdef' * 2}@host/2"}, {"dsn": "https://***@host/2"}),
        ({"feed": "https://host/x?user=me&token=abc&page=2"}, {"feed": "https://host/x?user=me&token=***"}),
        ({"feed": "https://host/x?sv=1&sig=abc%2F&se=2"}, {"feed": "https://host/x?sv=1&sig=***&se=2"}),
        ({"feed": "https://host/x?X-Amz-Signature=abc"}, {"feed": "https://host/x?X-Amz-Signature=***"}),
        ({"to": "https://hooks.slack.com/services/T/B/abc"}, {"to": "https://hooks.slack.com/***"}),
        ({"to": "https://discord.com/api/webhooks/1/abc"}, {"to": "https://discord.com/api/webhooks/***"}),
        ({"headers": ["Authorization: Basic abc="]}, {"headers": ["Authorization: *** ***"]}),
        ({"hub": f"hf_{'a' * 34}"}, {"hub": "***"}),
        ({"id": "AKIAABCDEFGHIJKLMNOP"}, {"id": "***"}),
    ],
)  # fmt: skip
def test_secrets_are_known_by_their_place_and_form_too(value: dict[str, object], masked: dict[str, object]) -> None:
    assert mask_secrets(value) == masked
    assert mask_secrets(masked) == masked


def test_what_was_masked_by_its_name_is_known_in_what_is_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expkit.secrets._known", set())
    mask_secrets({"api_key": "hunter2hunter2", "key": "val_loss", "pad_token": "<|endoftext|>", "password": "short"})
    mask_arguments(["task.secret=it's mine"])
    assert mask_text("no login for hunter2hunter2") == "no login for ***"
    assert mask_text("refused: it's mine") == "refused: ***"
    assert mask_text("val_loss of <|endoftext|> is short") == "val_loss of <|endoftext|> is short"


def test_a_path_that_is_there_is_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("MY_TOKEN", "/a/b/c/d/e/f")
    assert mask_text(f"in {tmp_path}, with /a/b/c/d/e/f") == f"in {tmp_path}, with ***"


def test_a_log_masks_tracebacks_too() -> None:
    try:
        raise RuntimeError("token=abc123 was refused")
    except RuntimeError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "password=%s", ("hunter2",), sys.exc_info())
    said = MaskingFormatter("%(levelname)s %(message)s").format(record)
    assert said.startswith("ERROR password=***\nTraceback")
    assert said.endswith("RuntimeError: token=*** was refused")


def test_what_the_parts_write_alone_is_masked(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    config = {"lr": 0.1, "api_key": "hunter2"}
    file = CheckpointManager(tmp_path).save_checkpoint(1, model, optimizer, [], config)
    assert file is not None
    assert torch.load(file, weights_only=True)["config"] == {"lr": 0.1, "api_key": "***"}
    info = RunInfo("x", tmp_path, notes="https://me:hunter2@host", config=config)
    assert (info.notes, info.config) == ("https://me:***@host", {"lr": 0.1, "api_key": "***"})
    assert config["api_key"] == "hunter2"


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
        (["task.pad_token=<pad>", "--pad-token", "<pad>", "secrets.pad_token=x"],
         ["task.pad_token=<pad>", "--pad-token", "<pad>", "secrets.pad_token=***"]),
        (["task.pad_token=5", "m.key_dim=64", "m.key_dims=[64,0.5]"],) * 2,
        (["password=12345678", "a.api_key=1_000"], ["password=***", "a.api_key=***"]),
        (["task={token:5,secret:5}"], ["task={token:5,secret:***}"]),
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
        ("login with DB_PASS=hunter2 MYSQL_PWD=a PGPASSWORD=b", "login with DB_PASS=*** MYSQL_PWD=*** PGPASSWORD=***"),
        ("tool --db-password hunter2 --token x9", "tool --db-password *** --token ***"),
        ("type tool --token TOKEN --max-tokens 5, or --token --verbose",) * 2,
        ("OLDPWD=/a PWD=/b forward_pass=fast, 3 of 4 pass: 5 s",) * 2,
        (r'{"api_key": "hun\"ter2", "lr": 1}', '{"api_key": ***, "lr": 1}'),
        ("no server at http://localhost:8080/x", "no server at http://localhost:8080/x"),
        ("KeyError: 'train_loss'", "KeyError: 'train_loss'"),
        ("RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x3 and 5x2)",) * 2,
    ],
)  # fmt: skip
def test_secrets_in_what_an_error_says_are_masked(monkeypatch: pytest.MonkeyPatch, text: str, masked: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("SHORT_KEY", "1")
    assert mask_text(text) == masked
