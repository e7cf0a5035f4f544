"""Muon, the optimizer of Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with AdamW for all it does not suit.

torch.optim.Muon takes no convolutions, and always multiplies in bfloat16, which older GPUs and CPUs only emulate.
"""

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # five iterations bring what exceeds 0.15 % of the norm to 0.68 - 1.2


class Muon(torch.optim.AdamW):
    """Give every convolution but the one that sees pixels an orthogonal update, and all other parameters AdamW's.

    With gradient g and learning rate r, M <- M + 0.05 (g - M) and W <- (1 - r decay) W - r U, where U is
    `orthogonalize` of the Nesterov momentum g + 0.95 (M - g), seen as a matrix (out, in * height * width). U is not
    scaled by the matrix's shape. AdamW does without decay.
    """

    def __init__(self, model: nn.Module, lr: float, adamw_lr: float, weight_decay: float, dtype: torch.dtype):
        matrices, others = [], []
        for weight in model.parameters():
            (matrices if weight.ndim == 4 and weight.shape[1] > 3 else others).append(weight)
        orthogonal = {"params": matrices, "lr": lr, "weight_decay": weight_decay}
        super().__init__([orthogonal, {"params": others, "lr": adamw_lr, "weight_decay": 0.0}])
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter once; the gradients of the convolutions are used up."""
        orthogonal = self.param_groups[0]
        for weight in orthogonal["params"]:
            if not self.state[weight]:  # AdamW asks for a step when it loads the state
                self.state[weight] = {"momentum": torch.zeros_like(weight), "step": torch.tensor(0.0)}
            momentum = self.state[weight]["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
            update = orthogonalize(weight.grad.lerp(momentum, MOMENTUM).flatten(1), self.dtype)
            weight.mul_(1 - orthogonal["lr"] * orthogonal["weight_decay"])
            weight.sub_(update.view_as(weight), alpha=orthogonal["lr"])
            weight.grad = None  # so that AdamW passes it by
        super().step()


def orthogonalize(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Approximate U V^T of the singular value decomposition U S V^T of a matrix (m, n); return it in float32.

    Five times X <- a X + (b X X^T + c (X X^T)^2) X, from the matrix divided by its norm, multiplied in `dtype`.
    """
    a, b, c = NEWTON_SCHULZ
    x = (matrix / (matrix.norm() + 1e-7)).to(dtype)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.float()
