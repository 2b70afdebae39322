"""Every dataset by its name: what there is, the card of each, and one call that loads any of them."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lsc_snn._checks import check_count, check_in
from lsc_snn.datasets.cards import CARDS, Card
from lsc_snn.datasets.digits import load_digits
from lsc_snn.datasets.manifolds import load_manifolds
from lsc_snn.datasets.mnist import load_latencies, load_sequences
from lsc_snn.datasets.request import Request, cache_folder, default_root
from lsc_snn.datasets.shd import load_heidelberg
from lsc_snn.datasets.splits import VALIDATION_SAMPLES, EventSplits
from lsc_snn.datasets.text import TextSplits, load_text
from lsc_snn.datasets.vision import load_cifar10_dvs, load_gesture, load_nmnist


def _digits(request: Request, *, num_steps: int = 40) -> EventSplits:
    fraction: Any = VALIDATION_SAMPLES if request.validation is None else request.validation
    return EventSplits(*load_digits(num_steps=num_steps, validation_fraction=fraction, seed=request.seed))


@functools.wraps(load_manifolds)  # its options are these
def _manifolds(request: Request, **settings: Any) -> EventSplits:
    request.refuse_validation()
    return load_manifolds(**settings, seed=request.seed)


_LOADERS: dict[str, Callable[..., EventSplits | TextSplits]] = {
    "digits": _digits,
    "shd": load_heidelberg,
    "ssc": load_heidelberg,
    "n-mnist": load_nmnist,
    "dvs-gesture": load_gesture,
    "cifar10-dvs": load_cifar10_dvs,
    "sl-mnist": load_latencies,
    "s-mnist": load_sequences,
    "sl-mnist-10k": load_latencies,
    "s-mnist-10k": load_sequences,
    "ptb": load_text,
    "wikitext-2": load_text,
    "wikitext-2-small": load_text,
    "manifolds": _manifolds,
}
_CARDS = {card.name: card for card in CARDS}


def names() -> list[str]:
    """Return the names of all datasets.

    >>> names()[:3]
    ['digits', 'shd', 'ssc']
    """
    return list(_LOADERS)


def card(name: str) -> Card:
    """Return the card of a dataset; ValueError, with the nearest name, for a name that is not known.

    >>> card("shd").classes
    20
    >>> card("sdh")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: dataset: expected one of 'digits', 'shd', ..., got 'sdh'; did you mean 'shd'?
    """
    check_in("dataset", name, _LOADERS)
    return _CARDS[name]


def options(name: str) -> dict[str, Any]:
    """Return the options that a dataset takes, with their defaults.

    >>> options("n-mnist")
    {'bin_ms': 10.0, 'num_steps': None, 'crop': False, 'pool': 1}
    """
    check_in("dataset", name, _LOADERS)
    # The seed is an argument of ``load`` itself.
    return {option: value for option, value in keywords(_LOADERS[name]).items() if option != "seed"}


def keywords(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the keyword-only arguments of a function, with their defaults.

    >>> keywords(sorted)
    {'key': None, 'reverse': False}
    """
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def request(name: str, root: str | Path | None = None, cache: str | Path | None = None) -> Request:
    """Return the request that ``load`` makes of the same arguments: it knows where files are looked for."""
    folder = default_root() if root is None else Path(root)
    return Request(card(name), folder, cache_folder() / "events" if cache is None else Path(cache))


def load(
    name: str,
    root: str | Path | None = None,
    *,
    validation: float | Sequence[int] | None = None,
    seed: int = 0,
    download: bool = False,
    verify: bool = True,
    cache: str | Path | None = None,
    **settings: Any,
) -> EventSplits | TextSplits:
    """Load a dataset by its name: its parts ``train``, ``validation`` and ``test``, event datasets or token streams.

    Files are looked for in ``root``, the folder of all datasets (by default that of the environment variable
    LSC_SNN_DATA, else lsc_snn/data in the user's cache folder), in the subfolders that the card names and in ``root``
    itself. A file that is there is used as it is; what is missing is fetched only with ``download``, whole or not at
    all. Event files are read once, into a cache in the folder ``cache`` (by default lsc_snn/events in the user's).

    ``validation`` is the fraction of training speakers or of each class's training samples to hold out, drawn with
    ``seed``, or the speakers themselves; where there is an official validation part it stays as it is. ``settings``
    are the dataset's own, as ``options`` lists them: ``bin_ms``, ``num_steps``, ``crop``, ``pool``, ``level``.

    Official files are checked: their MD5 sums where publishers give them, numbers of samples and classes; with
    ``verify=False`` files that are not the published ones are taken too. Raises ValueError, one line that names the
    file, for one that is missing, broken or another, and for unknown names and options; ImportError where an extra is
    missing; ConnectionError where a download breaks.

    >>> train, validation, test, _ = load("digits", num_steps=20)
    >>> train.num_steps, train.num_units, len(test)
    (20, 64, 359)
    """
    check_count("seed", seed, minimum=0)
    asked = replace(request(name, root, cache), validation=validation, seed=seed, download=download, verify=verify)
    known = list(options(name))
    for option in settings:
        if option not in known:
            nearest = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "leave it out"
            expected = ", ".join(known) or "no option"
            raise ValueError(f"{option}: expected {expected} for {name}, got {option!r}; {hint}")
    return _LOADERS[name](asked, **settings)
