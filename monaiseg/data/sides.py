"""Sides: which names denote the same structure on the left and on the right.

A name *has a side* if one of its words says left or right: "Left-Hippocampus", "rechte Niere", "L. insula". Two names
are *partners* if swapping such words turns one into the other. They are *perhaps* partners if they differ in letters
that may or may not stand for sides: lkid and rkid, insula_G and insula_D. The heart's chambers have a side but no
partner: the left and right ventricles are not mirror images.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Set
from typing import Literal

_WORDS = (
    ("left", "right"),
    ("links", "rechts"), ("linke", "rechte"), ("linker", "rechter"), ("linkes", "rechtes"),
    ("linken", "rechten"),
    ("izquierdo", "derecho"), ("izquierda", "derecha"), ("izquierdos", "derechos"),
    ("izquierdas", "derechas"),
    ("gauche", "droit"), ("gauche", "droite"), ("gauches", "droits"), ("gauches", "droites"),
    ("sinistro", "destro"), ("sinistra", "destra"), ("sinistri", "destri"), ("sinistre", "destre"),
    ("sinister", "dexter"), ("sinistra", "dextra"), ("sinistrum", "dextrum"), ("sinistri", "dextri"),
    ("sinistrae", "dextrae"), ("esquerdo", "direito"), ("esquerda", "direita"),
    ("venstre", "høyre"), ("venstre", "højre"), ("vänster", "höger"), ("vänstra", "högra"),
    ("lewy", "prawy"), ("lewa", "prawa"), ("lewe", "prawe"),
    ("левый", "правый"), ("левая", "правая"), ("левое", "правое"), ("左", "右"), ("左侧", "右侧"),
)  # fmt: skip
"""English, German and Dutch, Spanish, French, Italian, Latin, Portuguese, Danish and Norwegian, Swedish, Polish,
Russian, Chinese and Japanese."""
_SHORT = (
    ("l", "r"), ("lh", "rh"), ("lt", "rt"), ("sx", "dx"), ("izq", "der"), ("izdo", "dcho"),
    ("izda", "dcha"), ("li", "re"), ("sin", "dex"), ("sin", "dext"), ("sin", "dx"), ("esq", "dir"),
)  # fmt: skip
_UNCERTAIN = {"der", "li", "re", "sin", "dex", "dext", "esq", "dir"}
"""These denote a side only if the table also has the other name: `der` is also an article."""
_LETTERS = (("l", "r"), ("g", "d"), ("s", "d"), ("i", "d"), ("e", "d"))
"""Initials of left and right; g, s, i and e are French, Italian, Spanish and Portuguese."""
_CHAMBER = re.compile("ventr[ií][ck]|atri(?:um|al|o)|vorhof|herzkammer|oreillette|aur[ií]cula")
_LATERAL = re.compile(r"(?<![^\W\d_])lat|seitenventrikel")
"""The lateral ventricles of the brain are a pair."""


def _others(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for left, right in pairs:
        found.setdefault(left, set()).add(right)
        found.setdefault(right, set()).add(left)
    return found


_OTHERS = _others((*_WORDS, *_SHORT))
_LONG = sorted(_others(_WORDS), key=len, reverse=True)
_TITLES = "|".join(word.capitalize() for word in _LONG)
_ANY = "|".join(_LONG)
_SHORTS = "|".join(sorted(_others(_SHORT), key=len, reverse=True))
_LETTER, _SMALL = r"[^\W\d_]", "[a-zß-öø-ÿ]"
_WORD = re.compile(
    rf"(?<!{_LETTER})(?i:{_ANY})(?!{_SMALL})"  # LeftKidney; not leftover
    rf"|(?<={_SMALL})(?:{_TITLES})(?!{_SMALL})"  # kidneyLeft
    rf"|(?<![^\W_])(?i:{_SHORTS})(?![^\W_])"  # not the L of vertebra_L1
    "|[左右]"
)
_GLUED = re.compile(rf"(?i:{_ANY})")
_CAPITAL = re.compile(
    rf"(?<=[a-z0-9])[LR](?!{_LETTER}|\d)"  # hippocampusL, BA44R
    rf"|(?<!{_LETTER})(?:[LRlr]|lh|rh)(?=[A-Z][a-z])"  # LHippocampus, rhCuneus
)


def has_side(name: str) -> bool:
    """Whether a name says that its structure is on one side of the body.

    >>> has_side("rechte Niere"), has_side("kidney_l"), has_side("vertebra_L1"), has_side("bright spot")
    (True, True, False, False)
    """
    words = (found[0].lower() for found in _WORD.finditer(unicodedata.normalize("NFC", name)))
    return any(word not in _UNCERTAIN for word in words)


def side_of(name: str) -> Literal["left", "right"] | None:
    """The side of the body that a name says; None if it says none, or both.

    >>> side_of("Left Hippocampus"), side_of("rechte Niere"), side_of("liver")
    ('left', 'right', None)
    """
    words = {found[0].lower() for found in _WORD.finditer(unicodedata.normalize("NFC", name))}
    pairs = (*_WORDS, *_SHORT)
    left, right = ({pair[side] for pair in pairs} & words - _UNCERTAIN for side in (0, 1))
    if bool(left) == bool(right):
        return None
    return "left" if left else "right"


def partners(names: Mapping[int, str]) -> dict[int, int]:
    """For each label value whose name has a partner, the label value of that partner.

    >>> partners({1: "rein gauche", 2: "rein droit", 3: "foie"})
    {1: 2, 2: 1}
    """
    values = {_plain(name): value for value, name in names.items()}
    found = {}
    for value, name in names.items():
        if len(there := _other_names(name, values.keys())) == 1:
            found[value] = values[there.pop()]
    return {one: other for one, other in found.items() if found.get(other) == one}


def perhaps_partners(name: str, names: Iterable[str]) -> set[str]:
    """The `names` that may be the same structure on the other side, in lower case.

    >>> perhaps_partners("insula_G", ["insula_D", "tronc"]), perhaps_partners("zone d", ["zone e", "zone a"])
    ({'insula_d'}, set())
    """
    own = _plain(name)
    known = {own, *map(_plain, names)}
    found = _exchanged_ends(own) | _exchanged_letters(own, known)
    return ((found & known) | _other_names(name, known)) - {own}


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).lower()


def _other_names(name: str, known: Set[str]) -> set[str]:
    """The `known` names of the same structure on the other side, by the most reliable kind of word that gives any."""
    if _CHAMBER.search(_plain(name)) and not _LATERAL.search(_plain(name)):
        return set()
    for words in (_WORD, _GLUED, _CAPITAL):
        exchanged = _exchanged(unicodedata.normalize("NFC", name), words)
        if there := (exchanged & known) - {_plain(name)}:
            return there
    return set()


def _exchanged(name: str, words: re.Pattern[str]) -> set[str]:
    """The name with all or just one of its side words swapped: the gyrus rectus is "gyrus droit gauche" in French."""
    places = list(words.finditer(name))
    choices = [[each] for each in places] + ([places] if len(places) > 1 else [])
    return {
        _plain(_replaced(name, chosen, others))
        for chosen in choices
        if chosen
        for others in itertools.product(*(sorted(_OTHERS[place[0].lower()]) for place in chosen))
    }


def _replaced(name: str, places: list[re.Match[str]], words: Iterable[str]) -> str:
    for place, word in reversed(list(zip(places, words, strict=True))):
        name = name[: place.start()] + word + name[place.end() :]
    return name


def _exchanged_ends(name: str) -> set[str]:
    """The name with l and r swapped at its beginning or at its end."""
    other = {"l": "r", "r": "l"}
    first, last = other.get(name[:1]), other.get(name[-1:])
    begun = {first + name[1:]} if first else set()
    return begun | ({name[:-1] + last} if last else set())


def _exchanged_letters(name: str, known: set[str]) -> set[str]:
    """The name with the other side's initial for a single letter; none if further letters enumerate the parts."""
    found = set()
    for place in re.finditer(r"(?<![^\W_])[lrgdsie](?![^\W_])", name):
        before, after = name[: place.start()], name[place.end() :]
        series = {letter for letter in map(chr, range(97, 123)) if before + letter + after in known}
        pairs = [pair for pair in _LETTERS if set(pair) == series]
        found |= {before + letter + after for pair in pairs for letter in pair}
    return found
