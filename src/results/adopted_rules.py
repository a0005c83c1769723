"""What becomes of a run's probabilities: the policy that a metric asks for, or another one that was adopted.

decide.py writes runs/<competition>/<run>/decisions.json; its "use" names what was adopted, for probabilities and for
decisions. Policies are fitted anew wherever they are used, so that the file's parameters are for reading only.
"""

from pathlib import Path

import numpy as np

from common.files import read_json, sha256
from competition import Competition
from data.tables import submitted_part
from results.runs import Oof, run_folder
from scoring.decision_rules import Kind, Policy, make_policies
from scoring.label_shift import shift_policy
from scoring.metrics import METRICS
from scoring.thresholds import criterion

SHIFTS = {"shift_em": "em", "shift_bbse": "bbse"}  # policies for the prevalence of the test part, and its estimate


def decisions_path(competition: Competition, name: str) -> Path:
    """Where a run's decisions stand: runs/<competition>/<run>/decisions.json."""
    return run_folder(competition, name) / "decisions.json"


def made_from(competition: Competition, oof: Oof) -> dict:
    """What decisions are fitted on: hashes of the oof predictions' files and of the weights that made them."""
    folders = [run_folder(competition, oof.name)] if oof.members else [run.folder for run in oof.runs]
    return {"oof": sha256(*((folder / "oof.csv").read_bytes() for folder in folders)), "weights": oof.made_of}


def policy_metric(competition: Competition, gives: Kind) -> str:
    """What a policy that gives probabilities or decisions is chosen for, where nothing else is said."""
    if gives == "decisions":
        return criterion(competition.metric)
    return competition.metric if METRICS[competition.metric].uses == "probs" else "log_loss"


def default_policy(competition: Competition, gives: Kind) -> Policy:
    """The policy that is used unless another is adopted: thresholds for the metric, argmax, or probabilities as is."""
    return next(iter(make_policies(competition.task, competition.labels, policy_metric(competition, gives)).values()))


def untuned_policy(competition: Competition, gives: Kind) -> Policy:
    """The one without parameters: cut at 0.5, argmax, or probabilities as they are."""
    policies = make_policies(competition.task, competition.labels, policy_metric(competition, gives))
    return next(policy for policy in policies.values() if not policy.is_fitted)


def read_adopted(competition: Competition, oof: Oof) -> dict[Kind, dict]:
    """What was adopted for a run, by what it gives: policy, metric and, for a shift, prevalence and test predictions.

    Raises ValueError where it was for other models or predictions than the run has now.
    """
    path = decisions_path(competition, oof.name)
    said = read_json(path) if path.exists() else {}
    if not said.get("use"):
        return {}
    again = (f"run: python src/decide.py --competition {competition.name} --experiment {oof.name}, with --use POLICY "
             f"to adopt one again, or --use default for none")
    if said["made_from"] != made_from(competition, oof):
        raise ValueError(f"{path} adopts a policy for other predictions than {oof.name} has now; {again}")
    for adopted in said["use"].values():
        if "test_sha256" in adopted and adopted["test_sha256"] != predictions_hash(competition, oof.name):
            raise ValueError(f"{path} adopts {adopted['policy']}, estimated from other test predictions than "
                             f"{oof.name} has now; {again}")
    return said["use"]


def predictions_hash(competition: Competition, name: str) -> str | None:
    """The hash of a run's predictions of the part that is submitted; None where there are none."""
    path = run_folder(competition, name) / f"{submitted_part(competition)}.csv"
    return sha256(path.read_bytes()) if path.exists() else None


def policy_for(competition: Competition, oof: Oof, gives: Kind, submitted: bool = False) -> Policy:
    """The policy of a run: the adopted one, or the default.

    submitted: for the part that is submitted. A policy for that part's prevalence is for nothing else.
    Raises ValueError where the adopted policy is out of date, or not known.
    """
    adopted = read_adopted(competition, oof).get(gives)
    if adopted is None or (adopted["policy"] in SHIFTS and not submitted):
        return default_policy(competition, gives)
    name, metric = adopted["policy"], adopted["metric"]
    if name in SHIFTS:
        prevalence = np.array([adopted["prevalence"][label] for label in competition.labels], dtype=float)
        return shift_policy(name, competition.task, metric, prevalence)
    policies = make_policies(competition.task, competition.labels, metric)
    if name not in policies:
        raise ValueError(f"{decisions_path(competition, oof.name)} adopts {name!r}, which is no policy for {metric}; "
                         f"there are {', '.join(policies)}")
    return policies[name]


def judged_by_policy(competition: Competition, oof: Oof, targets: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(N, K) what the competition's metric judges of a run: what its policy, fitted on the other folds, makes of it."""
    return policy_for(competition, oof, METRICS[competition.metric].uses).crossfit(targets, oof.probs, folds)


def policy_inputs(competition: Competition, oof: Oof) -> dict:
    """What a submission depends on besides models and images: {} where nothing was adopted."""
    adopted = read_adopted(competition, oof)
    return {"adopted": adopted} if adopted else {}
