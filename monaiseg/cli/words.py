"""Words of the command line: EasyReg's spellings of options."""

from __future__ import annotations

from collections.abc import Mapping

SEVERAL = {"-i", "--image", "--image-list", "-li", "--limage-list"}
"""Options that take one or more values."""


def written_out(word: str, options: Mapping[str, object]) -> str:
    """The full name of an option that is abbreviated, as argparse allows; other and ambiguous words are unchanged.

    >>> written_out("--data_task=lpba", {"--data-task-name": 1, "--dataset-path": 2})
    '--data-task-name=lpba'
    """
    name, equals, value = word.partition("=")
    name = with_hyphens(name)
    if not name.startswith("-") or name in options or name.strip("-") == "":
        return word
    meant = [option for option in options if option.startswith(name)]
    unique = len({id(options[option]) for option in meant}) == 1
    return meant[0] + equals + value if unique else word


def spread(words: list[str]) -> list[str]:
    """Repeat options that take several values, as in EasyReg: `-i a b` becomes `-i a -i b`.

    >>> spread(["predict", "-i", "a", "b", "-o", "out"])
    ['predict', '-i', 'a', '-i', 'b', '-o', 'out']
    """
    spread: list[str] = []
    option, values = "", 0
    for word in words:
        if word.startswith("-") and word[1:2] not in {"", *"0123456789"}:
            option, values = word, 0
        elif with_hyphens(option) in SEVERAL:
            values += 1
            if values > 1:
                spread.append(option)
        spread.append(word)
    return spread


def with_hyphens(name: str) -> str:
    """The name of an option with hyphens instead of underscores."""
    return name.replace("_", "-")
