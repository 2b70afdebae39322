"""Language modelling from text files: words or characters as streams for truncated backpropagation through time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lsc_snn._checks import check_count, check_in
from lsc_snn.datasets.cards import spellings
from lsc_snn.datasets.published import HINT
from lsc_snn.datasets.request import Request
from lsc_snn.events import EventBatch

END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"

LEVELS = ("word", "char")


class Vocabulary:
    """The symbols of a training text, numbered from the most frequent one; a symbol that it lacks is ``<unk>``.

    Symbols of equal frequency come in the order of their code points. ``<unk>`` is always a symbol, the last one where
    the training text does not have it. ``symbols`` lists them, ``numbers`` maps them to their numbers.

    >>> Vocabulary(["b", "a", "b"]).numbers
    {'b': 0, 'a': 1, '<unk>': 2}
    """

    def __init__(self, training: Iterable[str]) -> None:
        counts = Counter(training)
        self.symbols = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
        if UNKNOWN not in counts:
            self.symbols.append(UNKNOWN)
        self.numbers = {symbol: number for number, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, symbols: Iterable[str]) -> npt.NDArray[np.int64]:
        """Return the numbers of some symbols."""
        unknown = self.numbers[UNKNOWN]
        return np.fromiter((self.numbers.get(symbol, unknown) for symbol in symbols), np.int64)


@dataclass(frozen=True, eq=False)
class TokenStream:
    """A text as numbers 0..num_symbols-1, two at least, (N,) integers, to be predicted one after the other.

    Raises TypeError for tokens that are no integers, ValueError for another shape, too few, and numbers out of range.

    >>> stream = TokenStream(np.array([0, 1, 2, 3, 0, 1, 2]), 4)
    >>> [(batch.shape, labels.tolist()) for batch, labels in stream.batches(batch_size=2, num_steps=2)]
    [((2, 2, 4), [[1, 0], [2, 1]]), ((1, 2, 4), [[3, 2]])]
    """

    tokens: npt.NDArray[np.integer[Any]]
    num_symbols: int

    def __post_init__(self) -> None:
        check_count("num_symbols", self.num_symbols)
        if self.tokens.dtype.kind not in "iu":
            raise TypeError(f"tokens: expected integers, got {self.tokens.dtype}; encode the text with a Vocabulary")
        if self.tokens.ndim != 1 or len(self.tokens) < 2:
            raise ValueError(
                f"tokens: expected two or more in one axis, got shape {self.tokens.shape}; pass a longer text"
            )
        outside = (self.tokens < 0) | (self.tokens >= self.num_symbols)
        if outside.any():
            raise ValueError(
                f"tokens: expected values in 0..{self.num_symbols - 1}, got {self.tokens[outside][0]} at entry "
                f"{int(outside.argmax())}; encode the text with its own Vocabulary"
            )

    def __len__(self) -> int:
        return len(self.tokens)

    def num_batches(self, batch_size: int, num_steps: int) -> int:
        """Return how many batches ``batches`` yields."""
        return -(-self._columns(batch_size, num_steps) // num_steps)

    def batches(self, batch_size: int, num_steps: int) -> Iterator[tuple[EventBatch, Tensor]]:
        """Yield consecutive stretches of ``num_steps`` (the last may be shorter) of ``batch_size`` parallel columns.

        The text but its last token is cut into ``batch_size`` = B columns of equal length, one after the other, and
        fewer than B tokens at its end are left out. A batch is an ``EventBatch`` of shape (T, B, num_symbols) with one
        event a step, the token, and labels (T, B) int64, the token that follows it. State that is carried from a batch
        to the next meets every column in its order. Raises TypeError or ValueError for sizes that are no integers of
        at least 1, and ValueError for more columns than there are tokens to predict.
        """
        columns = self._columns(batch_size, num_steps)
        used = columns * batch_size
        inputs, labels = (
            torch.from_numpy(self.tokens[start : start + used].astype(np.int64)).view(batch_size, columns).T
            for start in (0, 1)
        )
        for first in range(0, columns, num_steps):
            stretch = inputs[first : first + num_steps]
            yield one_hot_events(stretch, self.num_symbols), labels[first : first + num_steps].contiguous()

    def _columns(self, batch_size: int, num_steps: int) -> int:
        check_count("batch_size", batch_size)
        check_count("num_steps", num_steps)
        columns = (len(self) - 1) // batch_size
        if columns == 0:
            raise ValueError(
                f"batch_size: expected at most {len(self) - 1}, the tokens to predict, got {batch_size}; choose fewer"
            )
        return columns


def one_hot_events(tokens: Tensor, num_symbols: int) -> EventBatch:
    """Return tokens (T, B), integers 0..num_symbols-1, as one event each: the events of their one-hot vectors.

    >>> one_hot_events(torch.tensor([[0, 2]]), 3).to_dense()
    tensor([[[1., 0., 0.],
             [0., 0., 1.]]])
    """
    num_steps, batch_size = tokens.shape
    return EventBatch(
        times=torch.arange(num_steps).repeat_interleave(batch_size),
        samples=torch.arange(batch_size).repeat(num_steps),
        units=tokens.flatten(),
        counts=torch.ones(num_steps * batch_size),
        lengths=torch.full((batch_size,), num_steps),
        num_steps=num_steps,
        num_units=num_symbols,
    )


class TextSplits(NamedTuple):
    """The parts of a text with the vocabulary of the training part; ``unknown`` counts what that lacks, by part."""

    train: TokenStream
    validation: TokenStream
    test: TokenStream
    vocabulary: Vocabulary
    unknown: Mapping[str, int]


def read_symbols(path: str | Path, level: str = "word") -> list[str]:
    r"""Read the words of a text file, each line followed by ``<eos>``, or its characters, each line by ``"\n"``.

    Words are what white space separates. Raises ValueError, naming the file, where it is missing, holds no word or is
    no UTF-8 text, and for another level.

    >>> read_symbols("absent")
    Traceback (most recent call last):
    ValueError: absent: expected a text file, got no such file; check the path
    """
    check_in("level", level, LEVELS)
    path = Path(path)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: expected a text file, got {got}; check the path")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, got: {error}; is it a packed or binary file?") from error
    if "\0" in text or not text.strip():
        got = "a zero byte" if "\0" in text else "no word"
        raise ValueError(f"{path}: expected text, got {got}; copy or download it again")
    lines = text.split("\n")  # not splitlines, which also splits at separators inside a line
    if not lines[-1]:
        lines.pop()
    if level == "char":
        return list("\n".join(lines) + "\n")
    return [word for line in lines for word in (*line.split(), END_OF_LINE)]


def split_texts(train: list[str], validation: list[str], test: list[str]) -> TextSplits:
    """Number the symbols of three texts by the vocabulary of the first one.

    >>> split_texts(["a", "b", "a"], ["b", "c"], ["a", "b"]).unknown
    {'train': 0, 'validation': 1, 'test': 0}
    """
    vocabulary = Vocabulary(train)
    texts = {"train": train, "validation": validation, "test": test}
    first, second, third = (TokenStream(vocabulary.encode(text), len(vocabulary)) for text in texts.values())
    unknown = {part: sum(symbol not in vocabulary.numbers for symbol in text) for part, text in texts.items()}
    return TextSplits(first, second, third, vocabulary, unknown)


def load_text(request: Request, *, level: str = "word") -> TextSplits:
    """Load the Penn Treebank, WikiText-2 or WikiText-2-small by words or characters (``level``).

    Files of WikiText may be called wiki.test.tokens or test.txt, and so on. Raises what ``read_symbols`` and
    ``Request.provide`` raise, and ValueError where the words of a file are not as many as published.
    """
    check_in("level", level, LEVELS)
    request.refuse_validation()
    small = request.card.name == "wikitext-2-small"
    texts = {}
    for name in request.card.files:
        part = name.split(".")[1]
        path = request.provide(*spellings(name))
        texts[part] = read_symbols(path, level)
        if request.verify and level == "word":
            role = {"valid": "validation", "test": "train"}[part] if small else {"valid": "validation"}.get(part, part)
            _check_words(request, role, path, len(texts[part]) // (2 if role == "validation" and small else 1))
    if not small:
        return split_texts(texts["train"], texts["valid"], texts["test"])
    half = len(texts["valid"]) // 2
    return split_texts(texts["test"], texts["valid"][:half], texts["valid"][half:])


def _check_words(request: Request, part: str, path: Path, words: int) -> None:
    expected = dict(request.card.samples)[part]
    if words != expected:
        raise ValueError(
            f"{path}: expected the {expected} words and line ends of {request.card.title}, {part}, as published, "
            f"got {words}; {HINT}"
        )
