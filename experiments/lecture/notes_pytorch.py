"""The classes that notes on SPENs describe, in PyTorch, as a reader of the notes writes them.

`FeatureMLP`, `EnergyNetwork` with a local and a global term, `SPEN` and `SPENClassification`, the trainer; and the
notes' example of one training step. `docs/do/pytorch.md` has them beside ours. Needs PyTorch, the extra `torch`.

    python -m experiments.lecture.notes_pytorch FILE.npz    # what tests without PyTorch compare with
"""

import copy
import sys
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class FeatureMLP(nn.Module):
    """x -> fc3(relu(fc2(relu(fc1(x))))); without the last layer the features F(x)."""

    def __init__(self, input_dim: int, label_dim: int, hidden: int = 150):
        super().__init__()
        self.fc1 = nn.Linear(input_dim, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, label_dim)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """F(x), (B, D) -> (B, H)."""
        return F.relu(self.fc2(F.relu(self.fc1(x))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits, (B, D) -> (B, L)."""
        return self.fc3(self.features(x))


class EnergyNetwork(nn.Module):
    """E = y . B'f + c2 . g(C1'y): a local term, which starts at minus the last layer, and a global one."""

    def __init__(
        self,
        last: torch.Tensor,
        label_dim: int,
        num_pairwise: int = 16,
        non_linearity: nn.Module | None = None,
    ):
        super().__init__()
        self.non_linearity = non_linearity or nn.Softplus()
        self.B = nn.Parameter(-last.detach().T.clone())
        self.C1 = nn.Parameter(torch.randn(label_dim, num_pairwise) * (2 / label_dim) ** 0.5)
        self.c2 = nn.Parameter(torch.randn(num_pairwise, 1) * (2 / num_pairwise) ** 0.5)

    def forward(self, f_x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The energies, (B, H) and (B, L) -> (B,)."""
        local = (y * (f_x @ self.B)).sum(1)
        return local + (self.non_linearity(y @ self.C1) @ self.c2).squeeze(1)


class SPEN:
    """Inference and training of a `model`, an energy of (f_x, y)."""

    def __init__(
        self,
        model: nn.Module,
        label_dim: int,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        inf_lr: float = 0.1,
        momentum_inf: float = 0.95,
        n_steps_inf: int = 30,
    ):
        self.model, self.label_dim = model, label_dim
        self.inf_lr, self.momentum_inf, self.n_steps_inf = inf_lr, momentum_inf, n_steps_inf
        self.optimizer: Any = torch.optim.Adam(
            model.parameters(), lr=learning_rate, weight_decay=weight_decay
        )

    def inference(self, f_x: torch.Tensor) -> torch.Tensor:
        """y in [0, 1] after all steps, from the middle."""
        y = torch.full((len(f_x), self.label_dim), 0.5, dtype=f_x.dtype, requires_grad=True)
        sgd = torch.optim.SGD([y], lr=self.inf_lr, momentum=self.momentum_inf)
        for _ in range(self.n_steps_inf):
            (y.grad,) = torch.autograd.grad(self.model(f_x, y).sum(), y)
            sgd.step()
            with torch.no_grad():
                y.clamp_(0, 1)
        return y.detach()


class SPENClassification(SPEN):
    """The trainer: features that stand still, inference, the max-margin loss, one step of Adam."""

    def __init__(self, feature_extractor: FeatureMLP, num_pairwise: int = 16, **options: Any):
        self.feature_extractor = feature_extractor
        last = feature_extractor.fc3.weight
        super().__init__(EnergyNetwork(last, len(last), num_pairwise), len(last), **options)

    def loss(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """mean of max(0, D(y_hat, y) - E(x, y_hat) + E(x, y)), D the mean squared error of one example."""
        with torch.no_grad():
            f_x = self.feature_extractor.features(x)
        pred_labels = self.inference(f_x)
        pred_energy, gt_energy = self.model(f_x, pred_labels), self.model(f_x, targets)
        each = F.mse_loss(pred_labels, targets, reduction="none").mean(1)
        pre_loss = each - pred_energy + gt_energy
        return torch.max(pre_loss, torch.zeros_like(pre_loss)).mean()

    def train_step(self, x: torch.Tensor, targets: torch.Tensor) -> float:
        """One step; its loss."""
        self.optimizer.zero_grad()
        loss = self.loss(x, targets)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All weights, `feature_extractor.fc1.weight` to `model.c2`."""
        parts = {"feature_extractor.": self.feature_extractor, "model.": self.model}
        return {
            prefix + name: weight
            for prefix, part in parts.items()
            for name, weight in part.state_dict().items()
        }


def example(
    energy_network: nn.Module,
    f_x: torch.Tensor,
    y_true: torch.Tensor,
    starts: torch.Tensor,
    lr: float = 0.1,
    n_steps: int = 10,
    rate: float = 0.01,
    cleared: str = "printed",
) -> list[float]:
    """The losses of the notes' steps 2 to 6, once from each of `starts` (N, L), with gradient descent on the weights.

    The notes' loop calls `energy_pred.backward()`, which adds dE/dw of every inference step to the weights' gradients,
    and clears nothing. `cleared` says when they are set to 0: "printed" never, "step" before each training
    step, "loss" between inference and the loss, so that the loss alone is descended.
    """
    optimizer = torch.optim.SGD(energy_network.parameters(), lr=rate)
    losses = []
    for start in starts:
        if cleared == "step":
            optimizer.zero_grad()
        y_pred = start.clone().requires_grad_(True)
        for _ in range(n_steps):
            energy_pred = energy_network(f_x, y_pred[None]).squeeze()
            energy_pred.backward()
            y_pred = y_pred - lr * y_pred.grad
            y_pred = y_pred.detach().clone().requires_grad_(True)
        if cleared == "loss":
            optimizer.zero_grad()
        E_pred = energy_network(f_x, y_pred[None]).squeeze()
        E_true = energy_network(f_x, y_true[None]).squeeze()
        task_loss = F.mse_loss(y_pred, y_true)
        margin_loss = task_loss - E_pred + E_true
        spen_loss = torch.max(margin_loss, torch.zeros_like(margin_loss))
        spen_loss.backward()
        optimizer.step()
        losses.append(float(spen_loss.detach()))
    return losses


def reference(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights, energies, gradients, answers, a training step and curves of small networks, by name."""
    torch.manual_seed(seed)
    trainer = SPENClassification(FeatureMLP(12, 5, 8), 4, learning_rate=0.01)
    before = {name: weight.clone() for name, weight in trainer.state_dict().items()}
    x, targets = torch.randn(6, 12), (torch.rand(6, 5) < 0.4).float()
    y = torch.rand(6, 5, requires_grad=True)
    with torch.no_grad():
        f_x = trainer.feature_extractor.features(x)
    energies = trainer.model(f_x, y)
    weights = dict(trainer.model.named_parameters())
    slopes = torch.autograd.grad(energies.sum(), [y, *weights.values()])
    starts = torch.rand(40, 5)
    found: dict[str, Any] = {
        "x": x,
        "targets": targets,
        "y": y,
        "starts": starts,
        "energies": energies,
        "logits": trainer.feature_extractor(x),
        "answers": trainer.inference(f_x),
        "slope.y": slopes[0],
    }
    found |= {f"slope.{name}": s for name, s in zip(weights, slopes[1:], strict=True)}
    for cleared in ("printed", "step", "loss"):
        model = copy.deepcopy(trainer.model)
        curve = example(model, f_x[:1], targets[0], starts, cleared=cleared)
        found[f"curve.{cleared}"] = torch.tensor(curve)
    found["loss"] = torch.tensor(trainer.train_step(x, targets))
    found |= {f"before.{name}": weight for name, weight in before.items()}
    found |= {f"after.{name}": weight for name, weight in trainer.state_dict().items()}
    return {name: np.asarray(value.detach()) for name, value in found.items()}


if __name__ == "__main__":
    found: dict[str, Any] = reference()
    np.savez(sys.argv[1], **found)
