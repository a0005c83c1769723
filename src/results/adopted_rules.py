"""The decision rule of a run: the default for its metric, or another that was adopted.

decide.py writes runs/<competition>/<run>/decisions.json; its "adopted" names the adopted rules, for probabilities and
for decisions. Rules are fitted anew wherever they are used: the file's parameters are for reading only.
"""


import numpy as np

from common.commands import command_line
from common.files import sha256
from competition import Competition
from data.folds import fold_numbers
from data.tables import submitted_part
from results.runs import Oof, decisions_path, run_folder
from results.workspace import Workspace
from scoring.decision_rules import RULES, DecisionRule, Kind, check_rule, rule_for_prevalence, rules_for
from scoring.metrics import METRICS
from scoring.thresholds import criterion


def made_from(competition: Competition, oof: Oof) -> dict:
    """What decisions are fitted on: hashes of the oof predictions' files and of the weights that made them."""
    folders = [run_folder(competition, oof.name)] if oof.members else [run.folder for run in oof.runs]
    return {"oof": sha256(*((folder / "oof.csv").read_bytes() for folder in folders)), "weights": oof.made_of}


def rule_metric(competition: Competition, gives: Kind) -> str:
    """The metric that a rule for probabilities or decisions is fitted for, unless another is named."""
    if gives == "decisions":
        return criterion(competition.metric)
    return competition.metric if METRICS[competition.metric].uses == "probs" else "log_loss"


def default_rule(competition: Competition, gives: Kind) -> DecisionRule:
    """The rule that is used unless another is adopted: thresholds for the metric, argmax, or probabilities as is."""
    return next(iter(rules_for(competition.task, competition.labels, rule_metric(competition, gives)).values()))


def untuned_rule(competition: Competition, gives: Kind) -> DecisionRule:
    """The rule without parameters: a threshold of 0.5, argmax, or probabilities as they are."""
    rules = rules_for(competition.task, competition.labels, rule_metric(competition, gives))
    return next(rule for rule in rules.values() if not rule.is_fitted)


def read_adopted(workspace: Workspace, oof: Oof) -> dict[Kind, dict]:
    """The rules adopted for a run, by what they give: rule, metric and, for a prevalence, that and test predictions.

    Raises ValueError where they were adopted for other models or predictions than the run has now.
    """
    competition = workspace.competition
    path, decisions = decisions_path(competition, oof.name), workspace.decisions(oof.name)
    if not decisions.get("adopted"):
        return {}
    default = command_line("decide", competition, experiment=oof.name, adopt="default")
    hint = f"run: {default} (or adopt another rule)"
    if decisions["made_from"] != made_from(competition, oof):
        raise ValueError(f"{path} adopts a decision rule for other predictions than {oof.name} has now; {hint}")
    for adopted in decisions["adopted"].values():
        if "test_sha256" in adopted and adopted["test_sha256"] != predictions_hash(competition, oof.name):
            raise ValueError(f"{path} adopts {adopted['rule']}, estimated from other test predictions than "
                             f"{oof.name} has now; {hint}")
    return decisions["adopted"]


def predictions_hash(competition: Competition, name: str) -> str | None:
    """The hash of a run's predictions of the part that is submitted; None where there are none."""
    path = run_folder(competition, name) / f"{submitted_part(competition)}.csv"
    return sha256(path.read_bytes()) if path.exists() else None


def rule_for(workspace: Workspace, oof: Oof, gives: Kind, submitted: bool = False) -> DecisionRule:
    """The rule of a run: the adopted one, or the default.

    submitted: for the part that is submitted. A rule for that part's prevalence is used for no other part.
    Raises ValueError where the adopted rule is out of date, or unknown.
    """
    competition = workspace.competition
    adopted = read_adopted(workspace, oof).get(gives)
    if adopted is None:
        return default_rule(competition, gives)
    name, metric = adopted["rule"], adopted["metric"]
    if name in RULES and RULES[name].for_prevalence:
        if not submitted:
            return default_rule(competition, gives)
        prevalence = np.array([adopted["prevalence"][label] for label in competition.labels], dtype=float)
        return rule_for_prevalence(name, competition.task, competition.labels, metric, prevalence)
    rules = rules_for(competition.task, competition.labels, metric)
    try:
        check_rule(name, rules)
    except ValueError as error:
        raise ValueError(f"{decisions_path(competition, oof.name)} adopts a rule that {metric} has not: {error}"
                         ) from None
    return rules[name]


def metric_values(workspace: Workspace, oof: Oof) -> np.ndarray:
    """(N, K) what the competition's metric scores of a run: the values of its rule, fitted on the other folds."""
    rule = rule_for(workspace, oof, METRICS[workspace.competition.metric].uses)
    return rule.crossfit(workspace.targets, oof.probs, fold_numbers(workspace.table, oof.split))


def adopted_inputs(workspace: Workspace, oof: Oof) -> dict:
    """What a submission depends on besides models and images: {} where nothing was adopted."""
    adopted = read_adopted(workspace, oof)
    return {"adopted": adopted} if adopted else {}
