"""Batches of events: what datasets yield and what first layers take, without the dense (T, B, N) tensor."""

from collections.abc import Callable
from dataclasses import InitVar, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.types import Device

from lsc_snn._checks import check_count, check_finite, check_float, check_rank, check_tensor

_FIELDS = ("times", "samples", "units", "counts", "lengths")


@dataclass(frozen=True, eq=False, repr=False)
class EventBatch:
    """The non-zero entries of a time-first input x of shape (T, B, N), with the valid length of every sample.

    x[t, b, n] = sum of counts[e] over the events e with times[e] = t, samples[e] = b, units[e] = n

    Of E events, ``times`` holds the time step (0..T-1, and below the length of its sample), ``samples`` the sample
    (0..B-1), ``units`` the input unit (0..N-1) and ``counts`` what it adds to its entry: (E,) int64, and floating point
    for ``counts``, which is data and takes no gradient. ``lengths`` (B,) int64 is the number of valid steps of each
    sample, 1..T; ``num_steps`` is T, ``num_units`` is N. Events are sorted by (time, sample), so that the row t * B + b
    never decreases; events of one unit in one row add up. Never change these tensors in place: what is derived from
    them is kept. ``validate=False`` skips every check, for a caller that has made them.

    Raises TypeError where a field is no tensor or of the wrong kind of dtype, ValueError for shapes or devices that
    differ, values out of range, unsorted events and non-finite counts.

    >>> batch = EventBatch.from_dense(torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]], [[0.0, 0.0]]]))
    >>> batch
    EventBatch(shape=(3, 1, 2), events=2, density=33.33 %, lengths=3..3, dtype=torch.float32, device=cpu)
    >>> batch.times, batch.units
    (tensor([0, 1]), tensor([1, 0]))
    """

    times: Tensor
    samples: Tensor
    units: Tensor
    counts: Tensor
    lengths: Tensor
    num_steps: int
    num_units: int
    validate: InitVar[bool] = True

    def __post_init__(self, validate: bool) -> None:
        if validate:
            _check_batch(self)

    @classmethod
    def from_indices(
        cls,
        times: Tensor,
        samples: Tensor,
        units: Tensor,
        counts: Tensor | None = None,
        *,
        lengths: Tensor,
        num_steps: int,
        num_units: int,
    ) -> Self:
        """Batch of events in any order; events of the same time, sample and unit become one, their counts summed.

        Arguments as for the constructor, except that the indices may be of any integer dtype and ``counts`` may be left
        out: every event then counts one. Raises like the constructor.

        >>> zero, unit = torch.tensor([0, 0, 0]), torch.tensor([3, 1, 3])
        >>> batch = EventBatch.from_indices(zero, zero, unit, lengths=torch.tensor([2]), num_steps=2, num_units=5)
        >>> batch.units, batch.counts
        (tensor([1, 3]), tensor([1., 2.]))
        """
        for name, index in (("times", times), ("samples", samples), ("units", units), ("lengths", lengths)):
            _check_indices(name, index)
        if counts is None:
            counts = torch.ones(times.shape, device=times.device)
        _check_alike(times, samples, units, counts, lengths)
        times, samples, units = times.long(), samples.long(), units.long()
        key, order = torch.sort((times * lengths.numel() + samples) * num_units + units, stable=True)
        ordered = (times[order], samples[order], units[order], counts[order])
        full = cls(*ordered, lengths=lengths.long(), num_steps=num_steps, num_units=num_units)
        key, slot = torch.unique_consecutive(key, return_inverse=True)
        if key.numel() == times.numel():
            return full
        summed = torch.zeros(key.shape, dtype=counts.dtype, device=key.device).index_add_(0, slot, full.counts)
        row = key // num_units
        times, samples = row // full.batch_size, row % full.batch_size
        return replace(full, times=times, samples=samples, units=key % num_units, counts=summed, validate=False)

    @classmethod
    def from_dense(cls, x: Tensor, lengths: Tensor | None = None) -> Self:
        """Batch of the non-zero entries of a floating-point tensor x of shape (T, B, N); raises like the constructor.

        ``lengths`` is (B,) int64; by default every step of every sample is valid.

        >>> EventBatch.from_dense(torch.eye(3).reshape(3, 1, 3)).to_dense().squeeze(1)
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
        """
        check_float("x", x)
        check_rank("x", x, 3, "(T, B, N)")
        num_steps, batch_size, num_units = x.shape
        times, samples, units = x.nonzero(as_tuple=True)
        if lengths is None:
            lengths = torch.full((batch_size,), num_steps, device=x.device)
        return cls(times, samples, units, x[times, samples, units], lengths, num_steps, num_units)

    @property
    def batch_size(self) -> int:
        """The number of samples B."""
        return self.lengths.numel()

    @property
    def num_events(self) -> int:
        """The number of events E."""
        return self.times.numel()

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (T, B, N) of the dense tensor."""
        return self.num_steps, self.batch_size, self.num_units

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the counts and of the dense tensor."""
        return self.counts.dtype

    @property
    def device(self) -> torch.device:
        """The device of all fields."""
        return self.times.device

    def __repr__(self) -> str:
        shortest, longest = int(self.lengths.min()), int(self.lengths.max())
        percent = 100 * self.num_events / (self.num_steps * self.batch_size * self.num_units)
        size = f"shape={self.shape}, events={self.num_events}, density={percent:.2f} %, lengths={shortest}..{longest}"
        return f"EventBatch({size}, dtype={self.dtype}, device={self.device})"

    def to(self, device: Device = None, dtype: torch.dtype | None = None, non_blocking: bool = False) -> Self:
        """Same events on another device, counts in another floating-point dtype; TypeError for any other dtype.

        >>> EventBatch.from_dense(torch.ones(2, 1, 3)).to(dtype=torch.float64).to_dense().dtype
        torch.float64
        """
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"dtype: expected a floating-point dtype, got {dtype}; choose for example torch.float32")
        fields = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in _FIELDS}
        fields["counts"] = fields["counts"].to(dtype or self.dtype)
        moved = replace(self, **fields, validate=False)
        # Known already on the source device: asking again on an accelerator would wait for it.
        moved.__dict__["_all_one"] = self._all_one
        return moved

    def pin_memory(self) -> Self:
        """Same events in page-locked host memory, for asynchronous copies; the batch itself where there is no GPU."""
        if not torch.cuda.is_available():
            return self
        return replace(self, **{name: getattr(self, name).pin_memory() for name in _FIELDS}, validate=False)

    def mask(self) -> Tensor:
        """Valid steps: a bool tensor of shape (T, B), True where t < lengths[b].

        >>> EventBatch.from_dense(torch.zeros(3, 2, 1), lengths=torch.tensor([1, 3])).mask().int()
        tensor([[1, 1],
                [0, 1],
                [0, 1]], dtype=torch.int32)
        """
        return torch.arange(self.num_steps, device=self.device).unsqueeze(1) < self.lengths

    def to_dense(self) -> Tensor:
        """Dense tensor x of shape (T, B, N), in the dtype of the counts."""
        flat = torch.zeros(self.num_steps * self.batch_size * self.num_units, dtype=self.dtype, device=self.device)
        return flat.index_add_(0, self._rows * self.num_units + self.units, self.counts).view(self.shape)

    def rows(self, times: Tensor, samples: Tensor) -> Tensor:
        """Dense rows x[times[k], samples[k]] of shape (K, N), for two (K,) integer tensors; the rest stays sparse.

        Raises TypeError unless both are integer tensors, ValueError if they differ in shape or leave the batch.

        >>> batch = EventBatch.from_dense(torch.arange(6.0).reshape(3, 1, 2))
        >>> batch.rows(torch.tensor([2, 0]), torch.tensor([0, 0]))
        tensor([[4., 5.],
                [0., 1.]])
        """
        for name, index, size in (("times", times, self.num_steps), ("samples", samples, self.batch_size)):
            _check_indices(name, index)
            _check_range(name, index, 0, size)
        if times.shape != samples.shape:
            raise ValueError(
                f"samples: expected the shape of times, {tuple(times.shape)}, got {tuple(samples.shape)}; "
                "pass one sample for each time"
            )
        event, position = self._events_of(times.long() * self.batch_size + samples.long())
        flat = torch.zeros(times.numel() * self.num_units, dtype=self.dtype, device=self.device)
        flat.index_add_(0, position * self.num_units + self.units[event], self.counts[event])
        return flat.view(times.numel(), self.num_units)

    def select(self, samples: Tensor) -> Self:
        """Sub-batch of the given samples, in the given order; ``samples`` is a (K,) integer tensor, K >= 1.

        Raises TypeError for another type, ValueError for no sample or one outside the batch.

        >>> batch = EventBatch.from_dense(torch.tensor([[[1.0], [2.0], [3.0]]]))
        >>> batch.select(torch.tensor([2, 0])).to_dense().flatten()
        tensor([3., 1.])
        """
        _check_indices("samples", samples)
        _check_range("samples", samples, 0, self.batch_size)
        check_count("number of samples", samples.numel())
        samples = samples.long()
        steps = torch.arange(self.num_steps, device=self.device).unsqueeze(1)
        event, position = self._events_of((steps * self.batch_size + samples).flatten())
        return replace(
            self,
            times=position // samples.numel(),
            samples=position % samples.numel(),
            units=self.units[event],
            counts=self.counts[event],
            lengths=self.lengths[samples],
            validate=False,
        )

    def project(self, weight: Tensor) -> Tensor:
        """Input product y[t, b] = sum over events e of row (t, b) of counts[e] * weight[:, units[e]].

        ``weight`` is (n_out, N), of any floating-point dtype, which y of shape (T, B, n_out) shares. Equal to
        ``to_dense() @ weight.T`` up to rounding, for E * n_out products instead of T * B * N * n_out. Gradients of any
        order flow to ``weight``. Raises TypeError unless it is a floating-point tensor, ValueError for another shape
        or device.

        >>> batch = EventBatch.from_dense(torch.tensor([[[0.0, 2.0, 1.0]]]))
        >>> batch.project(torch.tensor([[1.0, 10.0, 100.0]]))
        tensor([[[120.]]])
        """
        check_float("weight", weight)
        if weight.ndim != 2 or weight.shape[1] != self.num_units:
            raise ValueError(
                f"weight: expected shape (n_out, {self.num_units}), got {tuple(weight.shape)}; "
                "pass one column for each input unit"
            )
        if weight.device != self.device:
            raise ValueError(
                f"weight: expected device {self.device}, got {weight.device}; move it or the batch with .to()"
            )
        return _product(weight.T, self, False).view(self.num_steps, self.batch_size, weight.shape[0])

    @cached_property
    def _rows(self) -> Tensor:
        return self.times * self.batch_size + self.samples

    @cached_property
    def _offsets(self) -> Tensor:
        """Where each row begins among the events: (T * B + 1,), the last entry is E."""
        rows = torch.arange(self.num_steps * self.batch_size + 1, device=self.device)
        return torch.searchsorted(self._rows, rows)

    @cached_property
    def _all_one(self) -> bool:
        return bool((self.counts == 1).all())

    @cached_property
    def _row_bags(self) -> "_Bags":
        return _Bags(self.units, self._offsets, None if self._all_one else self.counts)

    @cached_property
    def _unit_bags(self) -> "_Bags":
        """The transposed incidence: the rows of every unit, in order, so that gradients are reproducible."""
        # 16-bit keys sort twice as fast.
        key = self.units.to(torch.int16) if self.num_units <= 2**15 else self.units
        key, order = torch.sort(key, stable=True)
        offsets = torch.searchsorted(key.long(), torch.arange(self.num_units + 1, device=self.device))
        return _Bags(self._rows[order], offsets, None if self._all_one else self.counts[order])

    def _events_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Events of the given rows, row after row, and for each event the position of its row in ``rows``."""
        start = self._offsets[rows]
        size = self._offsets[rows + 1] - start
        position = torch.repeat_interleave(torch.arange(rows.numel(), device=rows.device), size)
        shift = start - (size.cumsum(0) - size)
        return torch.arange(position.numel(), device=rows.device) + shift[position], position


class _Bags(NamedTuple):
    """One side of the incidence: bag i sums the entries ``indices[offsets[i]:offsets[i + 1]]``, weighted by counts."""

    indices: Tensor
    offsets: Tensor
    counts: Tensor | None


class _SparseProduct(torch.autograd.Function):
    """A @ dense for the (T * B, N) matrix A of a batch, or A.T @ dense.

    Both are bag sums, and each is the gradient of the other. embedding_bag's own gradient scatters instead: 7 times
    slower than the bag sum in float32, 30 times in bfloat16 (100 x 64 x 700, 2 % dense, 256 outputs, two cores).
    """

    @staticmethod
    def forward(dense: Tensor, batch: EventBatch, transposed: bool) -> Tensor:
        bags = batch._unit_bags if transposed else batch._row_bags
        counts = None if bags.counts is None else bags.counts.to(dense.dtype)
        # Without these two, embedding_bag leaves its fast path (tens of times slower on a transposed view).
        table = dense.detach().contiguous()
        return F.embedding_bag(
            bags.indices, table, bags.offsets, mode="sum", include_last_offset=True, per_sample_weights=counts
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.batch, ctx.transposed = inputs

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        return _product(grad[0], ctx.batch, not ctx.transposed), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _product(tangents[0], ctx.batch, ctx.transposed)

    @staticmethod
    def vmap(info: Any, in_dims: Any, dense: Tensor, batch: EventBatch, transposed: bool) -> tuple[Tensor, int]:
        # Many right-hand sides are one wider right-hand side.
        wide = dense.movedim(in_dims[0], 1)
        return _product(wide.flatten(1), batch, transposed).view(-1, *wide.shape[1:]), 1


_product: Callable[[Tensor, EventBatch, bool], Tensor] = _SparseProduct.apply


def _check_batch(batch: EventBatch) -> None:
    for name in ("times", "samples", "units", "lengths"):
        index = getattr(batch, name)
        _check_indices(name, index)
        if index.dtype != torch.int64:
            raise TypeError(f"{name}: expected torch.int64, got {index.dtype}; convert it with .long()")
    _check_alike(batch.times, batch.samples, batch.units, batch.counts, batch.lengths)
    check_count("num_steps", batch.num_steps)
    check_count("num_units", batch.num_units)
    check_rank("lengths", batch.lengths, 1, "(B,)")
    if batch.counts.requires_grad:
        raise ValueError("counts: expected data without gradient, got requires_grad=True; pass counts.detach()")
    check_finite("counts", batch.counts)
    _check_range("times", batch.times, 0, batch.num_steps)
    _check_range("samples", batch.samples, 0, batch.batch_size)
    _check_range("units", batch.units, 0, batch.num_units)
    _check_range("lengths", batch.lengths, 1, batch.num_steps + 1)
    late = batch.times >= batch.lengths[batch.samples]
    if bool(late.any()):
        event = int(late.nonzero()[0])
        sample = int(batch.samples[event])
        raise ValueError(
            f"times: expected events before the end of their sample, got step {int(batch.times[event])} in sample "
            f"{sample} of length {int(batch.lengths[sample])}; raise its length or drop the event"
        )
    falls = batch._rows[1:] < batch._rows[:-1]
    if bool(falls.any()):
        event = int(falls.nonzero()[0]) + 1
        sorts = "build the batch with EventBatch.from_indices, which sorts"
        raise ValueError(f"times: expected events sorted by (time, sample), got event {event} out of order; {sorts}")


def _check_indices(name: str, index: Tensor) -> None:
    check_tensor(name, index)
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"{name}: expected an integer tensor, got {index.dtype}; convert it with .long()")
    if index.ndim != 1:
        raise ValueError(f"{name}: expected one axis, got shape {tuple(index.shape)}; flatten it")


def _check_alike(times: Tensor, samples: Tensor, units: Tensor, counts: Tensor, lengths: Tensor) -> None:
    check_float("counts", counts)
    for name, field in (("samples", samples), ("units", units), ("counts", counts), ("lengths", lengths)):
        if name != "lengths" and field.shape != times.shape:
            shapes = f"expected shape {tuple(times.shape)} as times, got {tuple(field.shape)}"
            raise ValueError(f"{name}: {shapes}; pass one entry for each event")
        if field.device != times.device:
            raise ValueError(f"{name}: expected device {times.device} as times, got {field.device}; move it with .to()")


def _check_range(name: str, values: Tensor, lower: int, upper: int) -> None:
    outside = (values < lower) | (values >= upper)
    if bool(outside.any()):
        entry = int(outside.nonzero()[0])
        got = f"{int(values[entry])} at entry {entry}"
        raise ValueError(f"{name}: expected values in {lower}..{upper - 1}, got {got}; check indices and sizes")


Inputs = Tensor | EventBatch
"""What a model takes: a dense tensor, time first, or events."""
