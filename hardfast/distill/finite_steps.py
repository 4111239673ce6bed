"""Steps that are skipped where loss or gradients are not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hardfast.distill.fully_sharded import local_part
from hardfast.distill.processes import ALONE, Processes

__all__ = ["FiniteSteps"]


class FiniteSteps:
    """Skips the steps of an optimizer that are not finite in loss, gradients or running statistics, and counts them.

    Nothing waits for the device before :meth:`skipped` is called: where its ``found_inf`` is 1, a fused optimizer
    leaves parameters and its own state as they are, which is how gradient scaling skips steps too. The forward has by
    then changed running statistics; they are put back. Numbers whose squares overflow count as infinite: those of
    gradients would be so in the second moment of Adam.

    Args:
        optimizer: of ``torch.optim``, made with ``fused=True``.
        module: what it trains, for its running statistics.
        most_in_a_row: skipped steps in a row, >= 1, at which :meth:`skipped` raises.
        sharing: processes of which each has a part of every gradient, and which skip together.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        module: nn.Module,
        most_in_a_row: int,
        sharing: Processes = ALONE,
    ) -> None:
        if not optimizer.defaults.get("fused"):
            raise ValueError("optimizer must be made with fused=True, which can skip a step without being told so")
        self._optimizer = optimizer
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._most_in_a_row, self._sharing = most_in_a_row, sharing
        self._unread: list[Tensor] = []  # 1 for a step that was skipped, 0 for another, on the device
        self._total = self._row = self._longest_row = 0
        # Other buffers are constants, which may well be infinite, as those of masks.
        buffers = [(name.rpartition(".")[2], value) for name, value in module.named_buffers()]
        self._statistics = [value for name, value in buffers if name in ("running_mean", "running_var")]
        # Which a step may change, and a skipped one must not.
        self._buffers = [*self._statistics, *(value for name, value in buffers if name == "num_batches_tracked")]
        self._kept = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def judge(self, loss: Tensor) -> None:
        """Tells the optimizer whether to skip the step that comes next; to be called between backward and step."""
        gradients = [local_part(parameter.grad) for parameter in self._parameters if parameter.grad is not None]
        # torch.nn.utils.get_total_norm of the same takes twice as long for small networks.
        norms = torch.stack(torch._foreach_norm([*gradients, *self._statistics])).sum()
        skip = ((self._sharing.merge(norms) + loss) * 0).nan_to_num(nan=1.0)  # 0 times what is not finite is no number
        skip = skip.float()  # fused optimizers take no other, whatever the parameters are
        self._optimizer.found_inf = skip  # type: ignore[attr-defined]
        self._unread.append(skip)
        for now, before in zip(self._buffers, self._kept, strict=True):
            before.copy_(torch.where(skip == 0, now, before, out=now))

    def skipped(self, name: str, step: int) -> int:
        """How many steps were skipped so far; waits for the device. To be called now and then: steps are remembered.

        Args:
            name: of what takes the steps, for the message.
            step: how far it is, for the message.

        Raises:
            FloatingPointError: too many were skipped in a row.
        """
        self._read()
        if self._longest_row >= self._most_in_a_row:
            raise FloatingPointError(
                f"the {name} had a loss or gradients that are not finite in {self._longest_row} steps in a row, up to "
                f"step {step}; those steps were skipped. Lower the learning rate or the weights of the objective"
            )
        return self._total

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        self._read()
        return {"total": self._total, "row": self._row, "longest_row": self._longest_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues from :meth:`state_dict`, with the module's running statistics as they are now."""
        self._total, self._row, self._longest_row = state["total"], state["row"], state["longest_row"]
        self._unread.clear()
        self._kept = [buffer.clone() for buffer in self._buffers]

    def _read(self) -> None:
        skipped = torch.stack(self._unread).tolist() if self._unread else []
        self._unread.clear()
        for skip in skipped:
            self._row = self._row + 1 if skip else 0
            self._longest_row = max(self._longest_row, self._row)
            self._total += int(skip)
