"""The command line's words on critics, checked: `--critic-arg k=v`, `--reward a=1,b=0.5`.

Keys are named by environment variables only; what looks like a secret is refused, unprinted.
"""

import math
import re
from collections.abc import Iterable, Mapping

_SECRET = re.compile(
    r"(?:^|[_-])(?:key|token|secret|password|passwd|authorization)$", re.IGNORECASE
)
_CREDENTIALS = re.compile(
    r"://[^/\s]*@|[?&](?:api[_-]?key|key|token|secret|password)=", re.IGNORECASE
)
_NAMES_A_VARIABLE = "key_env"


def refuse_secrets(option: str, name: str, value: str) -> None:
    """Refuse a key, or an address with credentials in it, without repeating the value.

    Raises:
        ValueError: the argument is a secret or carries one.
    """
    if _SECRET.search(name):
        raise ValueError(
            f"{option} {name}=... is refused: keys are read from an environment variable, "
            f"use {_NAMES_A_VARIABLE}=NAME_OF_THE_VARIABLE"
        )
    if _CREDENTIALS.search(value):
        shown = f"{name}=..." if name else "KIND:..."
        raise ValueError(
            f"{option} {shown} has an address with credentials, which is refused: use "
            f"{_NAMES_A_VARIABLE}=NAME_OF_THE_VARIABLE"
        )


def parse_critic_args(items: Iterable[str], *, option: str = "--critic-arg") -> dict[str, str]:
    """Read repeated ``k=v`` into a mapping of strings.

    Raises:
        ValueError: no "=", an empty or doubled name, or a secret.
    """
    args: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ValueError(f"{option} {name!r} is not NAME=VALUE")
        if name in args:
            raise ValueError(f"{option} {name} is given twice")
        refuse_secrets(option, name, value)
        args[name] = value
    return args


def parse_terms(text: str, *, option: str = "--reward") -> dict[str, float]:
    """Read ``humor=1,fact=0.5,novelty=0.5`` into weights by name; the critic's is ``humor``.

    A name may be a term that ships or, like a critic, ``module:factory``.

    Raises:
        ValueError: not NAME=WEIGHT, a weight that is 0 or not finite, a doubled name, no ``humor``.
    """
    terms: dict[str, float] = {}
    for item in text.split(","):
        name, equals, value = item.strip().rpartition("=")
        if not equals or not name:
            raise ValueError(f"{option} {item.strip()!r} is not NAME=WEIGHT")
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight) or weight == 0:
            raise ValueError(f"{option} {name}={value}: a weight is a finite number, not 0")
        if name in terms:
            raise ValueError(f"{option} names {name} twice")
        terms[name] = weight
    if "humor" not in terms:
        raise ValueError(f"{option} {text!r} lacks humor, the critic's own term")
    return terms


def check_args(option: str, target: str, args: Mapping[str, str]) -> None:
    """Refuse secrets in a critic's target and arguments.

    Raises:
        ValueError: as `refuse_secrets`.
    """
    refuse_secrets(option, "", target)
    for name, value in args.items():
        refuse_secrets(option, name, value)
