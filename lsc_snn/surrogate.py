"""Spike functions: a step forward, and a documented bump as its derivative backward.

A spike is z = 1 where x = v - threshold > 0. Its true derivative is zero almost everywhere, so training replaces it by
a bump f(x), the surrogate. Every bump here has the peak f(0) = dampening and the area dampening / sharpness, so that
shapes compare at equal scale: the scale of the surrogate changes every radius that this library measures.

Source: L. Herranz-Celotti and J. Rouat, "Surrogate Gradients Design", arXiv 2202.00282.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lsc_snn._checks import check_float, check_in, check_positive


class _Spike(torch.autograd.Function):
    """Heaviside step whose derivative is `surrogate.derivative`, under backward, forward mode and vmap alike.

    Forward over reverse, reverse over forward and reverse over reverse give f' for the second derivative; forward over
    forward does not, since torch drops the outer tangent of every custom function.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, surrogate: "Surrogate") -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, "Surrogate"], output: Tensor) -> None:
        x, ctx.surrogate = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * ctx.surrogate.derivative(x), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        derivative: Tensor = tangents[0] * ctx.surrogate.derivative(x)
        return derivative


@dataclass(frozen=True)
class Surrogate:
    """A spike function with a surrogate derivative f(x): the base of the six shapes, and of a shape of your own.

    A subclass sets `name` and `derivative`; `derivative` must be built of differentiable tensor operations, since the
    gradient of a radius is a derivative of f.

    Arguments: `dampening`, the peak f(0) > 0 (the LSC paper's networks take 0.5), without unit; `sharpness` > 0, in
    units of 1 / x: f has area dampening / sharpness. Raises TypeError or ValueError if one is not a positive number.
    """

    name: ClassVar[str] = ""

    dampening: float = 1.0
    sharpness: float = 1.0

    def __post_init__(self) -> None:
        check_positive("dampening", self.dampening)
        check_positive("sharpness", self.sharpness)

    def __call__(self, x: Tensor) -> Tensor:
        """Spike z = 1 where x > 0, else 0, in the shape and dtype of x; its derivative is `derivative(x)`.

        Argument: `x`, membrane potential minus threshold, of any shape. Raises TypeError if x is not floating-point.
        """
        check_float("x", x)
        spike: Tensor = _Spike.apply(x, self)  # type: ignore[no-untyped-call]
        return spike

    def derivative(self, x: Tensor) -> Tensor:
        """Surrogate derivative f(x), in the shape and dtype of x."""
        raise NotImplementedError(f"{type(self).__name__}: expected a derivative(x) method, got none; define f(x)")


# A fused scan calls `derivative` on a whole (T, B, N) tensor, so operations work in place wherever autograd does not
# need their operand again (and vmap has a rule for it: none for clamp_).


@dataclass(frozen=True)
class Triangular(Surrogate):
    """Triangle: f(x) = dampening * max(0, 1 - sharpness * |x|).

    >>> x = torch.tensor([-0.5, 0.5], requires_grad=True)
    >>> spike = Triangular()(x)
    >>> spike.tolist(), torch.autograd.grad(spike.sum(), x)[0].tolist()
    ([0.0, 1.0], [0.5, 0.5])
    """

    name: ClassVar[str] = "triangular"

    def derivative(self, x: Tensor) -> Tensor:
        """f(x) = dampening * max(0, 1 - sharpness * |x|)."""
        return x.abs().mul_(-self.dampening * self.sharpness).add_(self.dampening).relu_()


@dataclass(frozen=True)
class Rectangular(Surrogate):
    """Rectangle: f(x) = dampening where sharpness * |x| < 1/2, else 0.

    >>> Rectangular().derivative(torch.tensor([0.0, 0.49, 0.5])).tolist()
    [1.0, 1.0, 0.0]
    """

    name: ClassVar[str] = "rectangular"

    def derivative(self, x: Tensor) -> Tensor:
        """f(x) = dampening where sharpness * |x| < 1/2, else 0."""
        # ceil(1/2 - u) is 1 for u < 1/2, else at most 0; unlike a comparison it keeps x in the graph, with slope 0.
        return x.abs().mul_(-self.sharpness).add_(0.5).ceil_().mul_(self.dampening).relu_()


@dataclass(frozen=True)
class Exponential(Surrogate):
    """Two-sided exponential: f(x) = dampening * exp(-2 sharpness * |x|).

    >>> Exponential().derivative(torch.tensor([0.0, 20.0])).tolist()[0]
    1.0
    """

    name: ClassVar[str] = "exponential"

    def derivative(self, x: Tensor) -> Tensor:
        """f(x) = dampening * exp(-2 sharpness * |x|)."""
        return x.abs().mul_(-2 * self.sharpness).exp_() * self.dampening


@dataclass(frozen=True)
class Gaussian(Surrogate):
    """Gaussian: f(x) = dampening * exp(-pi (sharpness * x)^2).

    >>> Gaussian().derivative(torch.tensor([0.0, 20.0])).tolist()
    [1.0, 0.0]
    """

    name: ClassVar[str] = "gaussian"

    def derivative(self, x: Tensor) -> Tensor:
        """f(x) = dampening * exp(-pi (sharpness * x)^2)."""
        # exp(-pi 16^2) is 0 in every dtype, so the clamp changes no value; it keeps inf * 0 out of the gradient.
        scaled = (x * self.sharpness).clamp(-16, 16)
        return scaled.square().mul_(-math.pi).exp_() * self.dampening


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """Derivative of a sigmoid: f(x) = 4 dampening * sig(u) (1 - sig(u)), u = 4 sharpness * x.

    >>> Sigmoid().derivative(torch.tensor([0.0, 1e4])).tolist()
    [1.0, 0.0]
    """

    name: ClassVar[str] = "sigmoid"

    def derivative(self, x: Tensor) -> Tensor:
        """f(x) = 4 dampening * sig(u) (1 - sig(u)), u = 4 sharpness * x."""
        # sig(-u) is 1 - sig(u) without the cancellation at large u.
        rising, falling = (x * (4 * self.sharpness)).sigmoid_(), (x * (-4 * self.sharpness)).sigmoid_()
        return (rising * falling).mul_(4 * self.dampening)


@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """Derivative of x / (1 + |x|), scaled: f(x) = dampening / (1 + 2 sharpness * |x|)^2.

    >>> FastSigmoid().derivative(torch.tensor([0.0, 0.5])).tolist()
    [1.0, 0.25]
    """

    name: ClassVar[str] = "fast_sigmoid"

    def derivative(self, x: Tensor) -> Tensor:
        """f(x) = dampening / (1 + 2 sharpness * |x|)^2."""
        # The reciprocal first: the square of the denominator would overflow in half precision.
        return x.abs().mul_(2 * self.sharpness).add_(1).reciprocal_().square().mul_(self.dampening)


SURROGATES: dict[str, type[Surrogate]] = {
    shape.name: shape for shape in (Triangular, Rectangular, Exponential, Gaussian, Sigmoid, FastSigmoid)
}


def get(surrogate: str | Surrogate) -> Surrogate:
    """Return a surrogate by its name, with default dampening and sharpness, or the given surrogate itself.

    Argument: `surrogate`, a key of `SURROGATES` or an instance. Raises ValueError for an unknown name (and names the
    nearest one), TypeError for anything else.

    >>> get("gaussian")
    Gaussian(dampening=1.0, sharpness=1.0)
    """
    if isinstance(surrogate, Surrogate):
        return surrogate
    check_in("surrogate", surrogate, SURROGATES)
    return SURROGATES[surrogate]()
