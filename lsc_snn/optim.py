"""AdaBelief and Lookahead, the optimiser of the paper's procedure."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lsc_snn._checks import check_count, check_positive, is_number


class AdaBelief(Optimizer):
    """Adam whose step shrinks where gradients surprise: divided by their deviation from their mean, not by their size.

    With gradient g at step k, and all operations element by element,

        m = beta1 m + (1 - beta1) g,    s = beta2 s + (1 - beta2) (g - m)^2 + eps,
        p = (1 - lr weight_decay) p - lr m / (1 - beta1^k) / (sqrt(s / (1 - beta2^k)) + eps).

    Arguments: `params`, tensors or parameter groups; `lr` > 0; `betas`, two decays in [0, 1); `eps` > 0, by default
    1e-16 as in the authors' code: it is added to s, under the root, where it acts as Adam's 1e-8; `weight_decay` >= 0,
    decoupled from the gradient. Raises TypeError or ValueError for other values, and for float16 or complex parameters.
    Source: J. Zhuang et al., "AdaBelief Optimizer", NeurIPS 2020, arXiv 2010.07468, algorithm 2, without rectification.

    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = AdaBelief([weight], lr=0.1)
    >>> (3 * weight).sum().backward()
    >>> optimizer.step()
    >>> round(weight.item(), 4)  # 1 - 0.1 * 3 / (0.9 * 3): at first the mean is 0.1 * 3, the deviation 0.9 * 3
    0.8889
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with settings of its own if the dict names any; checked as in the constructor."""
        settings = {**self.defaults, **param_group}
        check_positive("lr", settings["lr"])
        check_positive("eps", settings["eps"])
        for beta in settings["betas"]:
            _check_fraction("betas", beta)
        if not is_number(settings["weight_decay"]) or not 0 <= settings["weight_decay"] < math.inf:
            got = settings["weight_decay"]
            raise ValueError(f"weight_decay: expected a finite number >= 0, got {got!r}; choose 0 for none")
        super().add_param_group(param_group)
        for parameter in param_group["params"]:
            if parameter.dtype == torch.float16 or not parameter.is_floating_point():
                self.param_groups.pop()
                got = parameter.dtype
                raise TypeError(f"params: expected real numbers that can hold 1e-16, got {got}; keep them in float32")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; `closure` recomputes and returns the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _adabelief_step(parameter, parameter.grad, self.state[parameter], group)
        return loss


def _adabelief_step(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    beta1, beta2 = group["betas"]
    if not state:
        state["step"] = torch.zeros(())
        state["mean"] = torch.zeros_like(parameter)
        state["deviation"] = torch.zeros_like(parameter)
    state["step"] += 1
    num_steps = int(state["step"])
    mean: Tensor = state["mean"].lerp_(gradient, 1 - beta1)
    surprise = gradient - mean
    deviation: Tensor = state["deviation"].mul_(beta2).addcmul_(surprise, surprise, value=1 - beta2).add_(group["eps"])
    scale = (deviation / (1 - beta2**num_steps)).sqrt_().add_(group["eps"])
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.addcdiv_(mean, scale, value=-group["lr"] / (1 - beta1**num_steps))


class Lookahead(Optimizer):
    """Wrap an optimiser: every k of its steps, move slow weights a fraction of the way, and restart from them.

    slow = slow + alpha (fast - slow), fast = slow, every k steps; slow starts as the parameters at the first step.

    Arguments: `inner`, the optimiser of the fast weights, whose parameter groups (and so learning rates) are shared;
    `k` >= 1; `alpha` in (0, 1]. Raises TypeError or ValueError for other values.
    Source: M. Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019, arXiv 1907.08610.

    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Lookahead(torch.optim.SGD([weight], lr=0.1), k=2, alpha=0.5)
    >>> for _ in range(2):
    ...     weight.grad = torch.tensor([1.0])
    ...     optimizer.step()
    >>> round(weight.item(), 4)  # two steps of 0.1, then half the way back
    0.9
    """

    def __init__(self, inner: Optimizer, k: int = 6, alpha: float = 0.5) -> None:
        if not isinstance(inner, Optimizer):
            got = type(inner).__name__
            raise TypeError(f"inner: expected a torch.optim.Optimizer, got {got}; construct the inner optimiser first")
        check_count("k", k)
        check_positive("alpha", alpha)
        if alpha > 1:
            raise ValueError(f"alpha: expected a number in (0, 1], got {alpha}; choose at most 1")
        self.inner, self.k, self.alpha, self.num_steps = inner, k, alpha, 0
        super().__init__(inner.param_groups, {})
        self.param_groups = inner.param_groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters to this optimiser and to the inner one."""
        if all(group is not param_group for group in self.inner.param_groups):
            self.inner.add_param_group(param_group)
        else:
            super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step the inner optimiser and, every k steps, the slow weights; returns the loss of `closure`, if given."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for parameter in parameters:
            if parameter not in self.state:
                self.state[parameter]["slow"] = parameter.detach().clone()
        loss: float | None = self.inner.step(closure) if closure is not None else self.inner.step()
        self.num_steps += 1
        if self.num_steps % self.k == 0:
            for parameter in parameters:
                parameter.copy_(self.state[parameter]["slow"].lerp_(parameter, self.alpha))
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the slow weights in the layout of torch.optim, with the step count and the inner optimiser's state."""
        return {**super().state_dict(), "inner": self.inner.state_dict(), "num_steps": self.num_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a `state_dict()`; raises ValueError for one of another optimiser or of other parameter groups."""
        missing = {"state", "param_groups", "inner", "num_steps"} - state_dict.keys()
        if missing:
            raise ValueError(f"state_dict: expected one of Lookahead, got none of {sorted(missing)}; load its own")
        self.inner.load_state_dict(state_dict["inner"])
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self.param_groups = self.inner.param_groups
        self.num_steps = state_dict["num_steps"]


def _check_fraction(name: str, value: float) -> None:
    if not is_number(value) or not 0 <= value < 1:
        raise ValueError(f"{name}: expected numbers in [0, 1), got {value!r}; choose e.g. 0.9")
