"""Words of the command line: EasyReg's spellings of options."""

from __future__ import annotations

from collections.abc import Mapping

SEVERAL = {"-i", "--image", "--image-list", "-li", "--limage-list"}
"""Options that are followed by one value or more."""


def written_out(word: str, options: Mapping[str, object]) -> str:
    """An option that is cut short, as argparse lets EasyReg's be, in full; what is no option or several stays.

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
    """`-i a b` as `-i a -i b`: options that take several values, as EasyReg's do.

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
    """An option's name with hyphens for underscores."""
    return name.replace("_", "-")
