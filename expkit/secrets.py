"""Keeping keys and tokens out of what a run writes down: docs/security.md says what is masked, and how it is known."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["MASK", "MaskingFormatter", "mask_arguments", "mask_secrets", "mask_text"]

MASK = "***"

#: One that lets somebody in; not `pad_token` and the like, which stand for something in a text.
_TOKEN = "".join(rf"(?<!\b{each}[_-])" for each in ("pad", "bos", "eos", "sos", "unk", "cls", "sep", "mask")) + "token"
_NAMES = rf"(api_?keys?|key|secrets?|{_TOKEN}|passwords?|passwd|passphrase|credentials?|authorization|webhook)"
#: A section or a list of such a name holds nothing else. (`tokens: {pad: 0}` are those of a text.)
_SECTION = re.compile(r"(?:api_?keys|secrets|passwords|credentials)(?:\.|$)", re.IGNORECASE)
#: Where a word of a name begins: after a sign, or with a capital (`clientSecret`).
_BEGIN = r"(?:^|[_.\-/]|(?-i:(?<=[a-z0-9])(?=[A-Z])))"
_SECRET = re.compile(
    rf"(?:{_BEGIN}({_NAMES}|pass|pwd|auth|cookie)|passw(?:or)?d)($|[_.\-/]|(?-i:(?=[A-Z])))",  # PGPASSWORD, too
    re.IGNORECASE,
)
#: Under these names a number is no setting, and a word is no name of anything (`token: pad`, `key: val_loss`).
_SURE = re.compile(r"api_?key|secret|password|passwd|passphrase|webhook", re.IGNORECASE)
#: What YAML and Hydra read as a number, or as several; or as what is neither text nor number.
_NUMBER = r"[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[+-]?\d+)?|true|false|null"
_NUMBERS = re.compile(rf"[\[(]?(?:{_NUMBER})(?:,\s*(?:{_NUMBER}))*[\])]?", re.IGNORECASE)
#: What is not yet the secret itself: an interpolation, or what is masked already.
_NONE = r"(?!\$\{|\*\*\*)"
#: `DB_PASS=...` inside of a text, of which other words than a variable's mean something else.
_VARIABLE = r"\b[A-Z0-9_]*_(?:PASS|PWD|AUTH|COOKIE)="
#: `{api_key: ...}` inside of a text; `KEY=VALUE` is how it is told what to type.
_INSIDE = re.compile(
    rf"""((?:(?:\b|_|(?-i:(?<=[a-z0-9])(?=[A-Z]))|(?=passw)){_NAMES}["']?\s*[:=]|(?-i:{_VARIABLE}))\s*)"""
    r"""(?!["']?\$\{|VALUE\b)("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,}\]]+)""",
    re.IGNORECASE,
)
#: By its place: a password in an address, what follows `Bearer`, what signs an address, the address of a webhook.
_BY_PLACE = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(://[^\s/@:]*:){_NONE}[^\s/@]+(?=@)",
        rf"(://){_NONE}[^\s/@:]{{16,}}(?=@)",
        rf"(--[\w-]*(?:password|passwd|passphrase|secret|{_TOKEN}|api-?key)[ ]+){_NONE}(?!-|(?-i:[A-Z]+\b))[^\s\"',]+",
        rf"(\bBearer\s+){_NONE}[^\s@\"',]+",
        rf"(\bAuthorization[\"']?\s*[:=]\s*[\"']?\w+[ ]+){_NONE}[^\s\"',]+",
        rf"([?&#][\w.\-]*(?:sig|signature|token|key|secret|password|credential|auth)=){_NONE}[^\s&\"'#]+",
        rf"(://hooks\.[^\s/\"']+/|://[^\s\"']{{0,200}}/webhooks?/){_NONE}[^\s\"',]+",
    )
)
#: By its form: tokens of services that begin with who has made them.
_BY_FORM = re.compile(
    r"\b(?:hf_\w{16,}|gh[opsur]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|sk-[\w-]{20,}|xox[abeoprs]-[\w-]{10,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,}|eyJ[\w-]{10,4000}\.[\w-]{10,4000}\.[\w-]+)"
)
#: Shorter values of secret-sounding variables (`KEY=1`) are found in any text.
_LEAST = 8

#: What was masked by its name in this process, so that it is found in what is said of it, too.
_known: set[str] = set()


class MaskingFormatter(logging.Formatter):
    """Formats as `logging.Formatter` does, tracebacks too, and masks the whole."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or lines, of a record."""
        return mask_text(super().format(record))


def mask_secrets(value: Any, name: str = "") -> Any:
    """Return a copy of a nested configuration without its secrets: each is replaced by `***`.

    Of a secret-sounding key it is the whole text, of other texts the part that `mask_text` would take. Numbers are
    masked where the name leaves no doubt (`password: 12345678`; `max_tokens: 100` stays). Empty values and
    interpolations (`${oc.env:KEY}`) hold no secret. What is masked by its name, `mask_text` finds from now on.
    """
    if isinstance(value, Mapping):
        section = f"{name}." if _SECTION.search(name) else ""
        return {key: mask_secrets(item, f"{section}{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask_arguments([item])[0] if _is_override(item) else mask_secrets(item, name) for item in value]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    if not _SECRET.search(name):
        return _masked(value) if isinstance(value, str) else value
    sure = _SURE.search(name) is not None
    if not value or (not sure and not isinstance(value, str)) or (isinstance(value, str) and value.startswith("${")):
        return value
    _remember(str(value), sure)
    return MASK


def _remember(value: str, sure: bool) -> None:
    """Keep what has just been masked; a word that may be a name of anything (`key: val_loss`) would be masked in it."""
    if len(value) >= _LEAST and value != MASK and (sure or re.search(r"\d", value)):
        _known.add(value)


def _is_override(item: Any) -> bool:
    """Whether an element of a list is an override (`a.b=1`), as Hydra's own files list them."""
    return isinstance(item, str) and re.match(r"[+~]*[\w./@]+=", item) is not None


def mask_arguments(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments with the secrets among them replaced by `***`.

    Known forms: `key=value`, `--key=value`, `--key value`, and those of `mask_secrets` inside of an argument. A number
    stays where `mask_secrets` leaves it (`model.key_dim=64`): a resume has to find it.
    """
    masked: list[str] = []
    secret_follows = False
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if secret_follows and not argument.startswith("-"):
            _remember(argument, sure=False)
            masked.append(MASK)
        elif equals and not _is_number(value, key) and mask_secrets(value, key.lstrip("+-~")) == MASK:
            masked.append(f"{key}={MASK}")
        else:
            masked.append(_masked(argument))
        secret_follows = not equals and argument.startswith("-") and bool(_SECRET.search(argument.lstrip("-")))
    return masked


def _is_number(value: str, name: str) -> bool:
    """Whether a value that is typed is a number, or several, and its name one under which a number is a setting."""
    return _NUMBERS.fullmatch(value) is not None and _SURE.search(name) is None


def mask_text(text: str) -> str:
    """Return a text, a line of a log, with what looks like a secret replaced by `***`.

    Known are the forms of `mask_arguments`, passwords in addresses, signed addresses and those of webhooks, `Bearer
    ...`, tokens of well-known services, the values of this process's secret-sounding environment variables, and
    what `mask_secrets` has masked by its name.
    """
    values = {value for name, value in os.environ.items() if _SECRET.search(name) and _is_secret(value)}
    for value in sorted(values | _known, key=len, reverse=True):  # one may begin another
        text = text.replace(value, MASK)
        if (quoted := repr(value)[1:-1]) != value:
            text = text.replace(quoted, MASK)
    return _masked(text)


def _is_secret(value: str) -> bool:
    """Whether the value of a secret-sounding variable is a secret, and none of PWD's or of SSH_AUTH_SOCK's kind."""
    return len(value) >= _LEAST and not (value.startswith("/") and Path(value).exists())


def _masked(text: str) -> str:
    """Mask what is known by its form or its place in a text."""
    text = _BY_FORM.sub(MASK, text)
    for pattern in _BY_PLACE:
        text = pattern.sub(rf"\1{MASK}", text)
    return _INSIDE.sub(lambda found: found[1] + (found[3] if _is_number(found[3], found[2] or "") else MASK), text)
