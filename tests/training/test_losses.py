"""Focal, asymmetric, AUC margin and soft F1 losses, and label smoothing: against papers' formulas and libraries."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from sklearn.metrics import f1_score, roc_auc_score
from torch.nn import functional as F

from common.hardware import import_torchvision
from training.losses import (
    CROSS_ENTROPY,
    LOSSES,
    best_constant_loss,
    best_possible_loss,
    check_loss,
    label_weights,
    make_loss,
    smooth_targets,
)

NAN = math.nan
EXAMPLES = {"cross_entropy": ("cross_entropy",), "focal": ("focal:2", "focal:0", "focal:0.5"),
            "asymmetric": ("asymmetric:4:1:0.05", "asymmetric:2:0:0", "asymmetric:0.5:0.5:0.2"),
            "auc_margin": ("auc_margin:1", "auc_margin:0.4"), "soft_f1": ("soft_f1",)}
CASES = [(loss, task) for loss in itertools.chain(*EXAMPLES.values()) for task in ("multilabel", "multiclass")
         if not (loss.startswith("asymmetric") and task == "multiclass")]


def draw_logits(count: int = 16, labels: int = 5) -> torch.Tensor:
    return torch.randn(count, labels, generator=torch.Generator().manual_seed(0)).mul(2).requires_grad_()


def draw_targets(task: str, count: int = 16, labels: int = 5) -> torch.Tensor:
    if task == "multiclass":
        return F.one_hot(torch.arange(count) % labels, labels).float()
    return (torch.rand(count, labels, generator=torch.Generator().manual_seed(1)) < 0.4).float()


def gradient_of(loss: str, task: str, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(make_loss(loss, task)(logits, targets), logits)[0]


# ---- what holds for all


def test_the_examples_here_are_of_all_losses():
    assert set(EXAMPLES) == set(LOSSES)


@pytest.mark.parametrize("loss, task", CASES)
def test_what_is_not_stated_teaches_nothing_and_hides_nothing_else(loss, task):
    logits, targets = draw_logits(), draw_targets(task)
    blank = targets.clone()
    blank[10:] = NAN
    torch.testing.assert_close(make_loss(loss, task)(logits, blank), make_loss(loss, task)(logits[:10], targets[:10]))
    torch.testing.assert_close(gradient_of(loss, task, logits, blank)[:10],
                               gradient_of(loss, task, logits[:10], targets[:10])[:10])
    assert (gradient_of(loss, task, logits, blank)[10:] == 0).all()
    blank = targets.clone()
    blank[2, 3] = NAN
    if task == "multiclass":  # a cell that is missing takes the row with it
        rows = torch.arange(16) != 2
        torch.testing.assert_close(make_loss(loss, task)(logits, blank),
                                   make_loss(loss, task)(logits[rows], targets[rows]))
    else:
        zero = gradient_of(loss, task, logits, blank) == 0
        assert zero[2, 3] and zero.sum() <= 1 + gradient_of(loss, task, logits, targets).eq(0).sum()


@pytest.mark.parametrize("loss, task", CASES)
def test_where_nothing_is_stated_loss_and_gradient_are_0(loss, task):
    logits, targets = draw_logits(), torch.full((16, 5), NAN)
    assert make_loss(loss, task)(logits, targets) == 0
    assert (gradient_of(loss, task, logits, targets) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("loss, task", CASES)
def test_the_largest_logits_have_a_finite_loss_and_gradient(loss, task, dtype):
    extremes = torch.tensor([-1e4, -100, -20, 0, 20, 100, 1e4])
    logits = torch.stack(torch.meshgrid(extremes, extremes, indexing="ij"), dim=-1).reshape(-1, 2).to(dtype)
    logits.requires_grad_()
    kinds = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.7, 0.3]] if task == "multiclass" else
                         [[1.0, 0.0], [0.0, 1.0], [0.7, 0.3], [0.0, 0.0], [1.0, 1.0]])
    for targets in (*(kind.expand(49, 2) for kind in kinds), kinds.repeat(49, 1)[:49]):
        value = make_loss(loss, task)(logits, targets)
        assert value.dtype == torch.float32 and value.isfinite() and value >= 0
        assert gradient_of(loss, task, logits, targets).isfinite().all()


@pytest.mark.parametrize("loss, task", CASES)
def test_under_autocast_a_loss_is_what_it_is_without(loss, task):
    logits, targets = draw_logits(), draw_targets(task)
    plain = make_loss(loss, task)(logits, targets)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(make_loss(loss, task)(logits, targets), plain, atol=0, rtol=0)


@pytest.mark.parametrize("loss, task", CASES)
def test_gradients_are_those_of_small_differences(loss, task):
    logits, targets = draw_logits(6, 3).detach(), draw_targets(task, 6, 3)
    targets = 0.8 * targets + 0.2 / 3
    targets[5] = NAN
    gradient = gradient_of(loss, task, logits.requires_grad_(), targets)
    loss_fn, step = make_loss(loss, task), 1e-2
    for i, k in itertools.product(range(6), range(3)):
        moved = torch.zeros(6, 3)
        moved[i, k] = step
        difference = (loss_fn(logits + moved, targets) - loss_fn(logits - moved, targets)).item() / (2 * step)
        assert gradient[i, k].item() == pytest.approx(difference, abs=1e-4)


@pytest.mark.parametrize("loss, task", CASES)
def test_following_the_gradient_leads_to_the_targets(loss, task):
    logits, targets = torch.zeros(8, 3), draw_targets(task, 8, 3)
    targets[0], targets[1] = torch.tensor([1, 0, 0]), torch.tensor([0, 1, 1 if task == "multilabel" else 0])
    for _ in range(200):
        logits = (logits - 5 * gradient_of(loss, task, logits.requires_grad_(), targets)).detach()
    if task == "multiclass":
        assert torch.equal(logits.argmax(dim=1), targets.argmax(dim=1))
    else:
        assert roc_auc_score(targets, logits) == 1


# ---- cross-entropy and label smoothing


@pytest.mark.parametrize("weighted", [False, True])
def test_binary_cross_entropy_is_the_formula_over_cells_with_a_target(weighted):
    logits, targets = draw_logits(), draw_targets("multilabel")
    targets[0, 1] = targets[3, 2] = NAN
    weights = torch.tensor([[0.5, 1, 2, 1, 1], [3, 1, 0.25, 1, 2]]) if weighted else None
    p = 1 / (1 + np.exp(-logits.detach().double().numpy()))
    t, cells = targets.double().numpy(), ~targets.isnan().numpy()
    negative, positive = np.ones((2, 5)) if weights is None else weights.double().numpy()
    losses = -(positive * t * np.log(p) + negative * (1 - t) * np.log(1 - p))
    loss = make_loss("cross_entropy", "multilabel", weights)(logits, targets)
    assert loss.item() == pytest.approx(losses[cells].mean(), rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_the_formula_over_rows_with_a_target(weighted):
    logits, targets = draw_logits(), draw_targets("multiclass")
    targets[4] = NAN
    weights = torch.tensor([3, 1, 0.25, 1, 2]) if weighted else None
    q, t = np.exp(logits.detach().double().numpy()), targets.double().numpy()
    factors = np.ones(5) if weights is None else weights.double().numpy()
    losses = -(factors * t * np.log(q / q.sum(axis=1, keepdims=True))).sum(axis=1)
    loss = make_loss("cross_entropy", "multiclass", weights)(logits, targets)
    assert loss.item() == pytest.approx(np.delete(losses, 4).mean(), rel=1e-5)


def test_label_smoothing_of_classes_is_torchs():
    logits, targets = draw_logits(), draw_targets("multiclass")
    ours = make_loss("cross_entropy", "multiclass", None, 0.1)(logits, targets)
    torch.testing.assert_close(ours, F.cross_entropy(logits, torch.arange(16) % 5, label_smoothing=0.1))
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.5])
    theirs = F.cross_entropy(logits, torch.arange(16) % 5, weights, label_smoothing=0.1, reduction="sum") / 16
    torch.testing.assert_close(make_loss("cross_entropy", "multiclass", weights, 0.1)(logits, targets), theirs)


def test_smoothed_targets_by_hand():
    targets = torch.tensor([[1.0, 0.0, NAN, 0.7]])
    expected = torch.tensor([[0.9, 0.1, NAN, 0.66]])
    torch.testing.assert_close(smooth_targets(targets, 0.2, "multilabel"), expected, equal_nan=True)
    torch.testing.assert_close(smooth_targets(torch.tensor([[1.0, 0, 0, 0]]), 0.2, "multiclass"),
                               torch.tensor([[0.85, 0.05, 0.05, 0.05]]))
    logits = torch.tensor([[0.0, math.log(3)]])
    by_hand = (-math.log(0.5) - 0.1 * math.log(0.75) - 0.9 * math.log(0.25)) / 2
    ours = make_loss("cross_entropy", "multilabel", None, 0.2)(logits, torch.tensor([[1.0, 0.0]]))
    assert ours.item() == pytest.approx(by_hand, rel=1e-6)


# ---- focal


def test_focal_loss_of_labels_is_torchvisions():
    import_torchvision()
    from torchvision.ops import sigmoid_focal_loss

    logits, targets = draw_logits(), draw_targets("multilabel")
    for gamma in (0.5, 2, 5):
        theirs = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma, reduction="mean")
        torch.testing.assert_close(make_loss(f"focal:{gamma}", "multilabel")(logits, targets), theirs)
    # their alpha on positives and 1 - alpha on negatives are weights
    theirs = sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2, reduction="mean")
    weights = torch.tensor([[0.75] * 5, [0.25] * 5])
    torch.testing.assert_close(make_loss("focal:2", "multilabel", weights)(logits, targets), theirs)


def test_focal_loss_by_hand():
    logits = torch.tensor([[math.log(3), 0.0]])  # p = 0.75, 0.5
    by_hand = (-0.25**2 * math.log(0.75) - 0.5**2 * math.log(0.5)) / 2
    assert make_loss("focal:2", "multilabel")(logits, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(by_hand)
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]])  # p = 1/8, 2/8, 5/8
    by_hand = -0.75**3 * math.log(0.25)
    assert make_loss("focal:3", "multiclass")(logits, torch.tensor([[0.0, 1.0, 0.0]])).item() == pytest.approx(by_hand)
    soft = 0.7 * by_hand - 0.3 * 0.375**3 * math.log(0.625)
    assert make_loss("focal:3", "multiclass")(logits, torch.tensor([[0.0, 0.7, 0.3]])).item() == pytest.approx(soft)


def test_focal_loss_of_two_classes_is_that_of_one_label():
    logits, targets = draw_logits(16, 1), draw_targets("binary", 16, 1)
    of_label = make_loss("focal:2", "binary")(logits, targets)
    both = make_loss("focal:2", "multiclass")(torch.cat([0 * logits, logits], 1), torch.cat([1 - targets, targets], 1))
    torch.testing.assert_close(of_label, both)


@pytest.mark.parametrize("task", CROSS_ENTROPY)
def test_focal_loss_with_gamma_0_is_cross_entropy(task):
    targets = draw_targets(task) * 0.8 + 0.04
    weights = label_weights("balanced", targets.numpy(), task)
    targets[3, 2] = NAN
    for given in (None, weights):
        torch.testing.assert_close(make_loss("focal:0", task, given)(draw_logits(), targets),
                                   CROSS_ENTROPY[task](draw_logits(), targets, given))


# ---- asymmetric


@pytest.mark.parametrize("negative, positive, clip", [(4, 1, 0.05), (4, 0, 0.2), (2, 2, 0), (1, 3, 0.05)])
def test_asymmetric_loss_is_timms_divided_by_cells(negative, positive, clip):
    import_torchvision()
    from timm.loss import AsymmetricLossMultiLabel

    logits, targets = draw_logits(), draw_targets("multilabel")
    of_timm = AsymmetricLossMultiLabel(gamma_neg=negative, gamma_pos=positive, clip=clip)  # a sum over an image's cells
    theirs = sum(of_timm(logits[[i]], targets[[i]]) for i in range(16)) / 80
    ours = make_loss(f"asymmetric:{negative}:{positive}:{clip}", "multilabel")(logits, targets)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, logits)[0], torch.autograd.grad(theirs, logits)[0],
                               atol=1e-6, rtol=1e-4)


def test_asymmetric_loss_by_hand():
    logits = torch.tensor([[math.log(3), math.log(3), math.log(1 / 19)]])  # p = 0.75, 0.75, 0.05
    targets = torch.tensor([[1.0, 0.0, 0.0]])
    by_hand = (-0.25 * math.log(0.75) - 0.65**4 * math.log(0.35) - 0) / 3  # what is below 0.1 does not count
    loss_fn = make_loss("asymmetric:4:1:0.1", "multilabel")
    assert loss_fn(logits, targets).item() == pytest.approx(by_hand)
    of_1, of_0 = loss_fn(logits[:, :1], targets[:, :1]).item(), loss_fn(logits[:, :1], targets[:, 1:2]).item()
    assert loss_fn(logits[:, :1], torch.tensor([[0.7]])).item() == pytest.approx(0.7 * of_1 + 0.3 * of_0)
    assert make_loss("asymmetric:0:0:0.1", "binary")(logits[:, 2:], targets[:, 2:]) == 0
    weights = torch.tensor([[2.0], [3.0]])
    assert make_loss("asymmetric:4:1:0.1", "binary", weights)(logits[:, :1], targets[:, :1]).item() == (
        pytest.approx(3 * of_1))


def test_asymmetric_loss_with_equal_exponents_and_no_clip_is_focal_loss():
    logits, targets = draw_logits(), draw_targets("multilabel") * 0.8 + 0.1
    torch.testing.assert_close(make_loss("asymmetric:2:2:0", "multilabel")(logits, targets),
                               make_loss("focal:2", "multilabel")(logits, targets))


# ---- AUC margin


@pytest.mark.parametrize("margin", [0.3, 1])
@pytest.mark.parametrize("soft", [False, True])
def test_auc_margin_loss_is_the_papers_objective_at_its_optimum(margin, soft):
    rng = np.random.default_rng(0)
    for share in (0.5, 0.1, 0.9):
        logits = rng.normal(size=40)
        targets = np.where(np.arange(40) < 40 * share, 1.0, 0.0)
        logits += targets * rng.normal()
        if soft:
            targets = targets * 0.6 + 0.3 * rng.random(40)
        p, h = targets.mean(), 1 / (1 + np.exp(-logits))

        def objective(a: float, b: float, alpha: float, p=p, h=h, t=targets) -> float:
            """The paper's F, the mean over images: of it p (1 - p) is a common factor."""
            return ((1 - p) * (h - a) ** 2 * t + p * (h - b) ** 2 * (1 - t)
                    + 2 * alpha * (p * (1 - p) * margin + p * h * (1 - t) - (1 - p) * h * t)
                    - p * (1 - p) * alpha**2).mean()

        def greatest(ab: np.ndarray, objective=objective) -> float:
            return -minimize_scalar(lambda alpha: -objective(*ab, alpha), bounds=(0, 5), method="bounded",
                                    options={"xatol": 1e-9}).fun

        of_paper = minimize(greatest, [0.5, 0.5], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}).fun
        ours = make_loss(f"auc_margin:{margin}", "binary")(torch.from_numpy(logits)[:, None],
                                                           torch.from_numpy(targets)[:, None])
        assert ours.item() == pytest.approx(of_paper / (p * (1 - p)), rel=1e-5, abs=1e-7)


def test_within_the_margin_auc_margin_loss_is_the_pairwise_square():
    scores, targets = np.array([0.9, 0.6, 0.2, 0.5, 0.7]), np.array([1, 1, 0, 0, 0])
    pairs = [(1 - positive + negative) ** 2 for positive in scores[:2] for negative in scores[2:]]
    logits = torch.logit(torch.from_numpy(scores))[:, None]
    ours = make_loss("auc_margin:1", "binary")(logits, torch.from_numpy(targets)[:, None].float())
    assert ours.item() == pytest.approx(np.mean(pairs), rel=1e-6)


def test_beyond_the_margin_auc_margin_loss_is_the_variance():
    scores, targets = torch.tensor([[0.9], [0.8], [0.1], [0.2], [0.3]]), torch.tensor([[1.0], [1], [0], [0], [0]])
    ours = make_loss("auc_margin:0.3", "binary")(torch.logit(scores), targets)
    assert ours.item() == pytest.approx(0.05**2 + 0.02 / 3, rel=1e-5)


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_auc_margin_loss_averages_labels_with_both_classes(task):
    logits, targets = draw_logits(), draw_targets(task)
    if task == "multiclass":
        targets = F.one_hot(torch.arange(16) % 3, 5).float()  # classes 3 and 4 do not occur
    else:
        targets[:, 3], targets[:, 4] = 0, 1
    probs = logits.softmax(dim=1) if task == "multiclass" else logits.sigmoid()
    alone = [make_loss("auc_margin:1", "binary")(torch.logit(probs[:, [k]]), targets[:, [k]]) for k in range(3)]
    torch.testing.assert_close(make_loss("auc_margin:1", task)(logits, targets), torch.stack(alone).mean())
    gradient = gradient_of("auc_margin:1", task, logits, targets)
    assert gradient.isfinite().all() and (gradient[:, :3] != 0).all()
    assert task == "multiclass" or (gradient[:, 3:] == 0).all()


# ---- soft F1


@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass"])
def test_soft_f1_of_hard_predictions_is_scikit_learns(task):
    rng = np.random.default_rng(0)
    labels = 1 if task == "binary" else 4
    for _ in range(5):
        if task == "multiclass":
            truth, decided = rng.integers(0, 4, 30), rng.integers(0, 4, 30)
            targets, decisions = np.eye(4)[truth], np.eye(4)[decided]
            theirs = f1_score(truth, decided, average="macro")
        else:
            targets, decisions = (rng.random((2, 30, labels)) < 0.4).astype(float)
            theirs = np.mean([f1_score(targets[:, k], decisions[:, k], average="macro") for k in range(labels)])
        logits = torch.from_numpy(decisions * 200 - 100)
        ours = make_loss("soft_f1", task)(logits, torch.from_numpy(targets))
        assert ours.item() == pytest.approx(1 - theirs, rel=1e-5)


def test_soft_f1_counts_probabilities():
    logits, targets = torch.logit(torch.tensor([[0.8], [0.4], [0.3]])), torch.tensor([[1.0], [0.7], [0.0]])
    present = 2 * (0.8 + 0.4 * 0.7) / (1.5 + 1.7)
    absent = 2 * (0.6 * 0.3 + 0.7) / (1.5 + 1.3)
    assert make_loss("soft_f1", "binary")(logits, targets).item() == pytest.approx(1 - (present + absent) / 2)


def test_soft_f1_falls_with_the_score_in_a_batch_without_positives():
    logits, targets = torch.zeros(4, 1), torch.zeros(4, 1)
    assert make_loss("soft_f1", "binary")(logits, targets).item() == pytest.approx(1 - 2 * 2 / (2 + 4))
    assert (gradient_of("soft_f1", "binary", logits.requires_grad_(), targets) > 0).all()


# ---- what can be learned


def uneven_targets(task: str, soft: bool) -> torch.Tensor:
    rng = np.random.default_rng(0)
    if task == "multiclass":
        targets = np.eye(3)[rng.choice(3, 300, p=(0.7, 0.27, 0.03))]
        targets = 0.8 * targets + 0.2 * rng.dirichlet((1, 1, 1), 300) if soft else targets
        targets[:20] = NAN
    else:
        targets = (rng.random((300, 3)) < (0.6, 0.1, 0.01)).astype(float)
        targets = 0.6 * targets + 0.3 * rng.random((300, 3)) if soft else targets
        targets[rng.random((300, 3)) < 0.1] = NAN
    return torch.from_numpy(targets.astype(np.float32))


@pytest.mark.parametrize("loss, task", [case for case in CASES if not case[0].startswith("auc_margin")])
@pytest.mark.parametrize("soft, kind", [(False, "none"), (False, "balanced"), (True, "none")])
def test_no_constant_found_otherwise_is_better_than_the_best(loss, task, soft, kind):
    if kind != "none" and loss == "soft_f1":
        return
    targets = uneven_targets(task, soft)
    loss_fn = make_loss(loss, task, label_weights(kind, targets.numpy(), task))

    def value_and_gradient(constant: np.ndarray) -> tuple[float, np.ndarray]:
        logits = torch.tensor(constant, dtype=torch.float32, requires_grad=True)
        value = loss_fn(logits.expand_as(targets), targets)
        return value.item(), torch.autograd.grad(value, logits)[0].double().numpy()

    found = min(minimize(value_and_gradient, start, jac=True, options={"gtol": 1e-7}).fun
                for start in (np.zeros(3), np.array([1.0, -2, -4])))
    assert best_constant_loss(loss_fn, targets, task) == pytest.approx(found, abs=2e-6)


def test_the_best_constants_loss_is_the_entropy_of_the_prevalence():
    loss_fn = make_loss("cross_entropy", "binary")
    targets = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert best_constant_loss(loss_fn, targets, "binary") == pytest.approx(entropy, rel=1e-6)
    one_hot = torch.eye(3)
    loss_fn = make_loss("cross_entropy", "multiclass")
    assert best_constant_loss(loss_fn, one_hot, "multiclass") == pytest.approx(np.log(3), rel=1e-6)


def test_balanced_weights_make_the_best_constant_loss_log_2():
    for task, targets in (("binary", [[1.0], [0], [0], [0]]), ("multiclass", np.eye(3)[[0, 0, 0, 0, 1, 2]])):
        targets = np.array(targets, np.float32)
        loss_fn = make_loss("cross_entropy", task, label_weights("balanced", targets, task))
        classes = 3 if task == "multiclass" else 2
        assert best_constant_loss(loss_fn, torch.from_numpy(targets), task) == pytest.approx(np.log(classes), rel=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_whole_batch_losses_have_a_best_constant(soft):
    for task, of_f1 in (("multilabel", 1 / 2), ("multiclass", 1 - 1 / 3)):
        targets = uneven_targets(task, soft)
        assert best_constant_loss(make_loss("soft_f1", task), targets, task) == pytest.approx(of_f1, abs=1e-6)
        for margin in (1, 0.4):
            loss_fn = make_loss(f"auc_margin:{margin}", task)
            assert best_constant_loss(loss_fn, targets, task) == pytest.approx(margin**2, rel=1e-6)


@pytest.mark.parametrize("loss, task", CASES)
def test_of_hard_targets_nothing_need_be_left(loss, task):
    assert best_possible_loss(make_loss(loss, task), uneven_targets(task, False), task) < 1e-4


@pytest.mark.parametrize("task", CROSS_ENTROPY)
def test_what_soft_and_smoothed_targets_leave_is_their_entropy(task):
    targets = uneven_targets(task, True)
    smoothed = smooth_targets(targets, 0.2, task).double()
    stated = smoothed[~smoothed.isnan().any(dim=1)] if task == "multiclass" else smoothed[~smoothed.isnan()]
    others = 0 if task == "multiclass" else torch.special.entr(1 - stated)
    entropy = (torch.special.entr(stated) + others).sum().item() / len(stated)
    left = best_possible_loss(make_loss("cross_entropy", task, None, 0.2), targets, task)
    assert left == pytest.approx(entropy, rel=1e-5)


# ---- what is refused


@pytest.mark.parametrize("loss, task, settings, message", [
    ("focal", "multilabel", {}, "did you mean 'focal:GAMMA'"),
    ("hinge", "multilabel", {}, "there is no 'hinge'"),
    ("asymmetric:4:1:0.05", "multiclass", {}, "is for binary and multilabel tasks"),
    ("asymmetric:4:1:1", "multilabel", {}, "must be below 1"),
    ("auc_margin:0", "multilabel", {}, "MARGIN must be above 0"),
    ("auc_margin:1", "multilabel", {"label_smoothing": 0.1}, "set label_smoothing=0"),
    ("soft_f1", "multiclass", {"label_smoothing": 0.1}, "set label_smoothing=0"),
    ("auc_margin:1", "multilabel", {"weighted": True}, "set loss_weights=none"),
    ("soft_f1", "multiclass", {"weighted": True}, "set loss_weights=none")])
def test_what_means_nothing_is_refused(loss, task, settings, message):
    with pytest.raises(ValueError, match=message):
        check_loss(loss, task, **settings)
    weights = torch.ones(2, 3) if settings.pop("weighted", False) else None
    with pytest.raises(ValueError, match=message):
        make_loss(loss, task, weights, **settings)
