"""The decision rule of a run: the default for its metric, or another that was adopted.

decide.py writes runs/<competition>/<run>/decisions.json; its "adopted" names the adopted rules, for probabilities and
for decisions. Rules are fitted again wherever they are used: the parameters in the file are only for information.
"""

import numpy as np

from common.commands import command_line
from common.files import sha256
from competition import Competition
from data.folds import fold_numbers
from results.runs import Oof, decisions_path, run_folder
from results.workspace import Workspace
from scoring.decision_rules import DecisionRule, Kind, rules_for
from scoring.metrics import METRICS, check_name
from scoring.thresholds import criterion


def made_from(competition: Competition, oof: Oof) -> dict:
    """What decisions are fitted on: hashes of the oof predictions' files and of the weights that made them."""
    folders = [run_folder(competition, oof.name)] if oof.members else [run.folder for run in oof.runs]
    return {"oof": sha256(*((folder / "oof.csv").read_bytes() for folder in folders)), "weights": oof.made_of}


def rule_metric(competition: Competition, gives: Kind) -> str:
    """The metric that a rule for probabilities or decisions is fitted for, if no other is named."""
    if gives == "decisions":
        return criterion(competition.metric)
    return competition.metric if METRICS[competition.metric].uses == "probs" else "log_loss"


def default_rule(competition: Competition, gives: Kind) -> DecisionRule:
    """The rule that is used if no other is adopted: thresholds for the metric, argmax, or the probabilities."""
    return next(iter(rules_for(competition.task, competition.labels, rule_metric(competition, gives)).values()))


def untuned_rule(competition: Competition, gives: Kind) -> DecisionRule:
    """The rule without parameters: a threshold of 0.5, the most probable class, or unchanged probabilities."""
    rules = rules_for(competition.task, competition.labels, rule_metric(competition, gives))
    return next(rule for rule in rules.values() if not rule.is_fitted)


def read_adopted(workspace: Workspace, oof: Oof) -> dict[Kind, dict]:
    """Rule and metric that were adopted for a run, for probabilities and for decisions.

    Raises ValueError if they were adopted for other models or predictions than the run has now.
    """
    competition = workspace.competition
    path, decisions = decisions_path(competition, oof.name), workspace.decisions(oof.name)
    if not decisions.get("adopted"):
        return {}
    if decisions["made_from"] != made_from(competition, oof):
        default = command_line("decide", competition, experiment=oof.name, adopt="default")
        raise ValueError(f"{path} adopts a decision rule for other predictions than {oof.name} has now; run: {default} "
                         "(or adopt another rule)")
    return decisions["adopted"]


def rule_for(workspace: Workspace, oof: Oof, gives: Kind) -> DecisionRule:
    """The rule of a run: the adopted one, or the default.

    Raises ValueError if the adopted rule is out of date, or unknown.
    """
    competition = workspace.competition
    if (adopted := read_adopted(workspace, oof).get(gives)) is None:
        return default_rule(competition, gives)
    rules = rules_for(competition.task, competition.labels, adopted["metric"])
    try:
        check_name("decision rule", adopted["rule"], rules)
    except ValueError as error:
        raise ValueError(f"{decisions_path(competition, oof.name)} adopts a rule not known for "
                         f"{adopted['metric']}: {error}") from None
    return rules[adopted["rule"]]


def metric_values(workspace: Workspace, oof: Oof) -> np.ndarray:
    """(N, K) what the competition's metric takes of a run: the values of its rule, fitted on the other folds."""
    rule = rule_for(workspace, oof, METRICS[workspace.competition.metric].uses)
    return rule.crossfit(workspace.targets, oof.probs, fold_numbers(workspace.table, oof.split))


def adopted_inputs(workspace: Workspace, oof: Oof) -> dict:
    """What a submission depends on besides models and images: {} if no rule was adopted."""
    adopted = read_adopted(workspace, oof)
    return {"adopted": adopted} if adopted else {}
