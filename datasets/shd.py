"""Reader of HDF5 files in the layout of the Spiking Heidelberg Digits.

Cramer et al. 2020, "The Heidelberg spiking data sets for the systematic evaluation of spiking neural networks":
``spikes/times``, for each sample a list of floats in seconds, sorted; ``spikes/units``, the unit of each spike;
``labels``, one class for each sample; ``extra/speaker``, optional.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lsc_snn._checks import check_count, check_positive
from lsc_snn.datasets.events_dataset import EventDataset, falls_within, sample_blocks
from lsc_snn.datasets.published import check_published
from lsc_snn.datasets.request import Remote, Request, import_tonic
from lsc_snn.datasets.splits import EventSplits, hold_out

MAX_STEPS = 2**16
"""A longer sample is refused: 65,536 steps of 4 ms are four minutes, so its times are hardly seconds."""


class _Recording(NamedTuple):
    """What a file holds, sample after sample: sample i owns the spikes ``offsets[i]:offsets[i + 1]``."""

    path: Path
    seconds: npt.NDArray[np.floating[Any]]
    units: npt.NDArray[np.integer[Any]]
    offsets: npt.NDArray[np.int64]
    labels: npt.NDArray[np.integer[Any]]
    speakers: npt.NDArray[np.integer[Any]] | None


class _Binned(NamedTuple):
    """Events of some samples, each sorted by (step, unit), and for each sample its events, its end and spikes lost."""

    times: npt.NDArray[np.uint16]
    units: npt.NDArray[np.integer[Any]]
    counts: npt.NDArray[np.integer[Any]]
    sizes: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    num_dropped: int


def read_shd(
    path: str | Path,
    *,
    bin_ms: float = 4.0,
    num_steps: int | None = None,
    crop: bool = False,
    full_window: bool = False,
    binary: bool = False,
    pool: int = 1,
    num_units: int = 700,
    num_classes: int | None = None,
) -> EventDataset:
    """Read a file of the SHD layout, opened once and closed again, into an event dataset.

    A spike at s seconds falls into step floor(1000 s / bin_ms), computed in float64 and exact for every time that a
    float16 or float32 can hold. The spikes of one unit in one step become one event that counts them, or counts one if
    ``binary``, as many published SHD results do; then ``pool`` neighbouring channels become one unit, as by
    ``EventDataset.pooled``: 5 makes 140 of 700. Files hold float16 times, which are multiples of 0.12 ms below 0.25 s,
    0.24 ms below 0.5 s, 0.49 ms below 1 s and 0.98 ms up to 2 s: with 4 ms steps, a spike recorded within half of that
    of an edge may stand one step away from where its unrounded time would put it.

    ``num_steps`` is the time axis of all batches; by default the longest sample fits exactly. A longer sample is an
    error unless ``crop``, which drops its later spikes and says how many in ``num_dropped``. Valid steps of a sample
    end with that of its last spike (at least one), or with the window if ``full_window``. ``num_classes`` defaults to
    the largest label plus one.

    Raises ImportError without h5py, and ValueError, naming file, key and sample, for a file that is missing, truncated,
    no HDF5 or lacks a key; datasets of unequal numbers of samples; times and units of unequal length; times that are
    negative, NaN, infinite or unsorted; units or labels of another type or out of range. A sample without spikes is
    valid.

    >>> read_shd("absent.h5")
    Traceback (most recent call last):
    ValueError: absent.h5: expected an HDF5 file, got no such file; check the path
    """
    check_window(bin_ms, num_steps, crop)
    check_count("num_units", num_units)
    check_count("pool", pool)
    if num_units % pool:
        raise ValueError(f"pool: expected a divisor of the {num_units} units, got {pool}; choose another")
    if num_classes is not None:
        check_count("num_classes", num_classes)
    recording = _read_file(Path(path))
    _check_recording(recording, num_units, num_classes)
    blocks = [
        _bin_spikes(recording, first, last, bin_ms, num_steps, num_units, crop)
        for first, last in sample_blocks(recording.offsets)
    ]
    times, units, counts, sizes, ends = (np.concatenate(field) for field in list(zip(*blocks, strict=True))[:5])
    most = counts.max(initial=0)
    window = int(ends.max()) if num_steps is None else num_steps
    dataset = EventDataset(
        times,
        units,
        np.append(0, np.cumsum(sizes)),
        recording.labels,
        np.full_like(ends, window) if full_window else ends,
        num_steps=window,
        num_units=num_units,
        num_classes=int(recording.labels.max()) + 1 if num_classes is None else num_classes,
        counts=None if binary or most <= 1 else counts.astype(np.min_scalar_type(most)),
        speakers=recording.speakers,
        num_dropped=sum(block.num_dropped for block in blocks),
    )
    return dataset if pool == 1 else dataset.pooled(pool)


def check_window(bin_ms: float, num_steps: int | None, crop: bool) -> None:
    """Raise TypeError or ValueError for a time step or a window that no recording can be binned to.

    >>> check_window(4.0, None, crop=True)
    Traceback (most recent call last):
    ValueError: crop: expected num_steps with crop=True, got None; say to how many steps
    """
    check_positive("bin_ms", bin_ms)
    if num_steps is None:
        if crop:
            raise ValueError("crop: expected num_steps with crop=True, got None; say to how many steps")
        return
    check_count("num_steps", num_steps)
    if num_steps > MAX_STEPS:
        raise ValueError(f"num_steps: expected at most {MAX_STEPS}, got {num_steps}; choose a longer bin_ms")


def load_folder(
    folder: str | Path, *, num_classes: int | None = None, **options: Any
) -> tuple[EventDataset, EventDataset]:
    """Read the train and test file of a folder: train.h5 and test.h5, or shd_train.h5 and shd_test.h5.

    ``options`` are those of ``read_shd``. The classes are those of the training file unless ``num_classes`` says
    otherwise. Raises ValueError where the folder holds neither pair, and whatever ``read_shd`` raises.

    >>> load_folder("absent")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: absent: expected a folder with train.h5 and test.h5, or shd_train.h5 and shd_test.h5, found none; ...
    """
    folder = Path(folder)
    for prefix in ("", "shd_"):
        train, test = folder / f"{prefix}train.h5", folder / f"{prefix}test.h5"
        if train.is_file() and test.is_file():
            first = read_shd(train, num_classes=num_classes, **options)
            return first, read_shd(test, num_classes=first.num_classes, **options)
    found = ", ".join(sorted(file.name for file in folder.glob("*.h5*"))) or "none"
    raise ValueError(
        f"{folder}: expected a folder with train.h5 and test.h5, or shd_train.h5 and shd_test.h5, found {found}; "
        "check the path, and unpack .gz or .zip files"
    )


def load_heidelberg(
    request: Request,
    *,
    bin_ms: float = 4.0,
    num_steps: int | None = None,
    crop: bool = False,
    full_window: bool = False,
    binary: bool = False,
    pool: int = 1,
) -> EventSplits:
    """Load the Spiking Heidelberg Digits or the Spiking Speech Commands; options as in ``read_shd``.

    The Speech Commands have an official validation part; of the Digits, training speakers are held out. Raises what
    ``read_shd`` and the methods of ``Request`` raise, and ValueError for a file of another dataset or part.
    """
    options = {
        "bin_ms": bin_ms, "num_steps": num_steps, "crop": crop, "full_window": full_window, "binary": binary,
        "pool": pool,
    }  # fmt: skip
    card = request.card
    if len(card.files) == 3:
        request.refuse_validation()
    reading: dict[str, Any] = {**options, "num_classes": card.classes}
    parts = {}
    for name in card.files:
        stem = name.removesuffix(".h5").partition("_")[2]
        part = "validation" if stem == "valid" else stem
        path = request.unpack(name, f"{name}.zip", partial(_remote, card.name, stem))
        parts[part] = request.cached([path], reading, partial(read_shd, path, **reading))
        if request.verify:
            check_published(card, part, path, parts[part])
    dropped = sum(dataset.num_dropped for dataset in parts.values())
    if "validation" in parts:
        return EventSplits(parts["train"], parts["validation"], parts["test"], dropped)
    return EventSplits(*hold_out(parts["train"], request.validation, seed=request.seed), parts["test"], dropped)


def _remote(name: str, part: str) -> Remote:
    """Return where tonic finds the packed file of a part, and its checksum."""
    tonic = import_tonic()
    source = getattr(tonic.datasets, name.upper())
    return Remote(source.base_url + getattr(source, f"{part}_zip"), getattr(source, f"{part}_md5"))


def _read_file(path: Path) -> _Recording:
    try:
        import h5py
    except ImportError as error:
        raise ImportError('reading HDF5 needs h5py; install it with: pip install "lsc-snn[data]"') from error
    if not path.is_file():
        raise ValueError(
            f"{path}: expected an HDF5 file, got {'a folder' if path.is_dir() else 'no such file'}; check the path"
        )
    try:
        with h5py.File(path, "r") as file:
            times, units = (_read_key(path, file, key) for key in ("spikes/times", "spikes/units"))
            labels = _read_key(path, file, "labels")
            speakers = _read_key(path, file, "extra/speaker") if "extra/speaker" in file else None
    except (OSError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: expected a whole HDF5 file, got: {reason}; copy or download it again") from error
    num_samples = len(labels)
    if num_samples == 0:
        raise ValueError(f"{path}: labels: expected at least one sample, got none; check how the file was made")
    for key, values in (("spikes/times", times), ("spikes/units", units), ("extra/speaker", speakers)):
        if values is not None and len(values) != num_samples:
            raise ValueError(
                f"{path}: {key}: expected {num_samples} samples as in labels, got {len(values)}; "
                "check how the file was made"
            )
    sizes, unit_sizes = ([len(sample) for sample in lists] for lists in (times, units))
    if sizes != unit_sizes:
        sample = next(i for i in range(num_samples) if sizes[i] != unit_sizes[i])
        raise ValueError(
            f"{path}: sample {sample}: expected as many spikes/units as spikes/times, got {unit_sizes[sample]} and "
            f"{sizes[sample]}; leave the sample out or make the file again"
        )
    offsets = np.append(0, np.cumsum(sizes))
    return _Recording(path, np.concatenate(times), np.concatenate(units), offsets, labels, speakers)


def _read_key(path: Path, file: Any, key: str) -> Any:
    """Values of one key: an array of integers, or for spikes a list with the array of each sample."""
    import h5py

    node = file.get(key)
    if not isinstance(node, h5py.Dataset):
        found: list[str] = []
        file.visit(found.append)
        raise ValueError(f"{path}: expected the key {key}, got only {', '.join(found)}; is this an SHD file?")
    ragged = key.startswith("spikes/")
    dtype = h5py.check_vlen_dtype(node.dtype) if ragged else node.dtype
    kinds, numbers = ("f", "floats") if key == "spikes/times" else ("iu", "integers")
    if node.ndim != 1 or not isinstance(dtype, np.dtype) or dtype.kind not in kinds:
        expected = f"a list of {numbers} for each sample" if ragged else f"one of {numbers} for each sample"
        got = node.dtype if dtype is None or not ragged else f"lists of {dtype}"
        raise ValueError(f"{path}: {key}: expected {expected}, got {got} of shape {node.shape}; is this an SHD file?")
    values = node[:]
    return [sample.astype(dtype, copy=False) for sample in values] if ragged else values


def _check_recording(recording: _Recording, num_units: int, num_classes: int | None) -> None:
    path, seconds, units, labels = recording.path, recording.seconds, recording.units, recording.labels

    def sample_of(bad: npt.NDArray[np.bool_]) -> int:
        return int(np.searchsorted(recording.offsets, bad.argmax(), side="right")) - 1

    bad = ~np.isfinite(seconds) | (seconds < 0)
    if bad.any():
        raise ValueError(
            f"{path}: sample {sample_of(bad)}: expected spikes/times >= 0 and finite, got {seconds[bad][0]}; "
            "leave the spike out or make the file again"
        )
    sample = falls_within(seconds, recording.offsets)
    if sample is not None:
        raise ValueError(f"{path}: sample {sample}: expected sorted spikes/times, got an earlier one; sort the sample")
    bad = (units < 0) | (units >= num_units)
    if bad.any():
        raise ValueError(
            f"{path}: sample {sample_of(bad)}: expected spikes/units in 0..{num_units - 1}, got {units[bad][0]}; "
            "pass the right num_units or make the file again"
        )
    bad = labels < 0 if num_classes is None else (labels < 0) | (labels >= num_classes)
    if bad.any():
        expected = "0 or above" if num_classes is None else f"in 0..{num_classes - 1}"
        raise ValueError(
            f"{path}: sample {int(bad.argmax())}: expected labels {expected}, got {labels[bad][0]}; "
            "pass the right num_classes or make the file again"
        )


def _bin_spikes(
    recording: _Recording, first: int, last: int, bin_ms: float, num_steps: int | None, num_units: int, crop: bool
) -> _Binned:
    """Events of the samples first..last-1: spikes of one sample, step and unit are merged and counted."""
    limit = num_steps or MAX_STEPS
    offsets = recording.offsets[first : last + 1]
    sizes = np.diff(offsets)
    span = slice(offsets[0], offsets[-1])
    sample = np.repeat(np.arange(last - first), sizes)
    # Milliseconds first: 1000 times a float16 or float32 is exact in float64, and only the division rounds.
    with np.errstate(over="ignore"):
        steps = np.floor(recording.seconds[span].astype(np.float64) * 1000 / bin_ms)
    keep = steps < limit
    if not (crop or keep.all()):
        late = int(keep.argmin())
        hint = "or pass crop=True" if num_steps else "are the times in seconds?"
        raise ValueError(
            f"{recording.path}: sample {first + sample[late]}: expected at most {limit} steps, got a spike in step "
            f"{steps[late]:.0f}; raise num_steps or bin_ms, {hint}"
        )
    ends = np.ones(last - first, np.int64)
    filled = sizes > 0
    ends[filled] = np.minimum(steps[offsets[1:][filled] - offsets[0] - 1], limit - 1).astype(np.int64) + 1
    place = sample[keep] * limit + steps[keep].astype(np.int64)
    # Sorted but for the order within a step, which a stable sort (timsort) makes use of.
    key = np.sort(place * num_units + recording.units[span][keep], kind="stable")
    starts = np.flatnonzero(np.append(True, key[1:] != key[:-1])[: len(key)])
    counts = np.diff(starts, append=len(key))
    place, unit = np.divmod(key[starts], num_units)
    sample, step = np.divmod(place, limit)
    return _Binned(
        step.astype(np.uint16),
        unit.astype(np.min_scalar_type(num_units - 1)),
        counts.astype(np.min_scalar_type(counts.max(initial=0))),
        np.bincount(sample, minlength=last - first),
        ends,
        int((~keep).sum()),
    )
