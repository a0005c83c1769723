"""k nearest neighbours as a head: features to the share of the k nearest training images that have a label."""

import torch
from torch import Tensor, nn

# distances between features: raw; each feature divided by its standard deviation; 1 - cosine
SPACES = ("euclidean", "standardised", "cosine")


class KNNHead(nn.Module):
    """k nearest neighbours: features (B, D) to logits (B, K).

    cases: (S, D);  votes: (S, Q, C), the weight of a case for each of C classes of each of Q problems, all 0 if its
    label is unknown. A label is a problem of two classes, absent and present; `exclusive` classes are one problem. Each
    problem has its own k nearest cases with a known label. A further vote, the average of all cases, keeps
    probabilities away from 0 and 1.
    Source: Fix & Hodges 1951; Cover & Hart 1967, https://doi.org/10.1109/TIT.1967.1053964
    """

    def __init__(self, cases: int, features: int, questions: int, classes: int, exclusive: bool):
        super().__init__()
        self.exclusive = exclusive
        # parameters, so that they are counted and saved like those of other heads; no gradient changes them
        for name, shape in (("cases", (cases, features)), ("votes", (cases, questions, classes)), ("mean", (features,)),
                            ("scale", (features,)), ("prior", (questions, classes))):
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))
        self.register_buffer("k", torch.tensor(1))
        self.register_buffer("by_angle", torch.tensor(False))

    @classmethod
    def of_cases(cls, features: Tensor, votes: Tensor, space: str, k: int, exclusive: bool) -> "KNNHead":
        """The head of training features (S, D) and their votes (S, Q, C); space: one of SPACES.

        Raises ValueError if there is no such space.
        """
        if space not in SPACES:
            raise ValueError(f"no space {space!r}; there are {', '.join(SPACES)}")
        head = cls(*features.shape, *votes.shape[1:], exclusive)
        head.scale.fill_(1)
        if space == "standardised":
            scale = features.double().std(dim=0, correction=0)
            head.scale.copy_(torch.where(scale > 1e-7 * features.abs().mean(dim=0), scale, 1.0))
        head.k.fill_(k)
        head.by_angle.fill_(space == "cosine")
        if not head.by_angle:  # centred features lose fewer digits in distances
            head.mean.copy_(features.double().mean(dim=0))
        head.cases.copy_(head.place(features))
        head.votes.copy_(votes)
        stated = votes.sum(dim=2) > 0
        weight = votes.sum(dim=(0, 2)) / stated.sum(dim=0).clamp(min=1)  # of one case
        counts = votes.sum(dim=0) + 1
        head.prior.copy_(weight.clamp(min=1e-6)[:, None] * counts / counts.sum(dim=1, keepdim=True))
        return head

    def place(self, features: Tensor) -> Tensor:
        """(B, D) the features, transformed to the space in which distances are measured."""
        placed = (features.float() - self.mean) / self.scale
        return nn.functional.normalize(placed, dim=1) if self.by_angle else placed

    def squared_distances(self, features: Tensor) -> Tensor:
        """(B, S) squared Euclidean distances to all cases; 2 - 2 cos in the space "cosine"."""
        placed = self.place(features)
        squares = placed.square().sum(dim=1, keepdim=True) + self.cases.square().sum(dim=1)
        return (squares - 2 * placed @ self.cases.T).clamp(min=0)

    def shares(self, features: Tensor, ks: tuple[int, ...]) -> Tensor:
        """(len(ks), B, Q, C) the votes of the k nearest cases of each problem as probabilities, for several k."""
        distances, stated = self.squared_distances(features), self.votes.sum(dim=2) > 0
        nearest = None  # of all cases; shared by the problems for which every case has a label
        answers = []
        for question, known in enumerate(stated.T):
            if not known.all():
                order, votes = _nearest(distances[:, known], max(ks)), self.votes[known, question]
            else:
                order = nearest = _nearest(distances, max(ks)) if nearest is None else nearest
                votes = self.votes[:, question]
            none = votes.new_zeros(len(order), 1, votes.shape[1])
            sums = torch.cat([none, votes[order].cumsum(dim=1)], dim=1)
            at = sums[:, [min(k, order.shape[1]) for k in ks]] + self.prior[question]
            answers.append(at / at.sum(dim=2, keepdim=True))
        return torch.stack(answers, dim=2).transpose(0, 1)

    def forward(self, features: Tensor) -> Tensor:
        logs = self.shares(features, (int(self.k),))[0].log()
        return logs[:, 0] if self.exclusive else logs[:, :, 1] - logs[:, :, 0]


def _nearest(distances: Tensor, count: int) -> Tensor:
    """(B, min(count, S)) int64, the columns of the smallest distances in ascending order."""
    return distances.topk(min(count, distances.shape[1]), dim=1, largest=False).indices
